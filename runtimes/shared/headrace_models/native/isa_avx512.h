// Vectors of 16 lanes in AVX-512 with VNNI. No templates of the standard library here: see isa_portable.h.
#pragma once
#include <immintrin.h>

#include "half.h"

namespace headrace {
namespace {

constexpr int kMaxRows = 16, kMaxFloatRows = 6, kChainedRows = 4;

using F = __m512;
using I = __m512i;
using Codes = __m512i;

inline F zero() { return _mm512_setzero_ps(); }
inline F set1(float x) { return _mm512_set1_ps(x); }
inline F load(const float* p) { return _mm512_loadu_ps(p); }
inline void store(float* p, F a) { _mm512_storeu_ps(p, a); }
inline F load_f16(const uint16_t* p) { return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i*)p)); }
inline void store_f16(uint16_t* p, F a) { _mm256_storeu_si256((__m256i*)p, _mm512_cvtps_ph(a, 0)); }
inline F load_bf16(const uint16_t* p) {
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)p)), 16));
}
inline F add(F a, F b) { return _mm512_add_ps(a, b); }
inline F sub(F a, F b) { return _mm512_sub_ps(a, b); }
inline F mul(F a, F b) { return _mm512_mul_ps(a, b); }
inline F div(F a, F b) { return _mm512_div_ps(a, b); }
inline F fma(F a, F b, F c) { return _mm512_fmadd_ps(a, b, c); }
inline F max(F a, F b) { return _mm512_max_ps(a, b); }
inline F min(F a, F b) { return _mm512_min_ps(a, b); }
inline F abs(F a) { return _mm512_abs_ps(a); }
inline F keep_from(F a, F x, float limit) {
  return _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(x, set1(limit), _CMP_GE_OQ), a);
}
inline F round(F a) { return _mm512_roundscale_ps(a, 0); }
inline F power_of_two(F n) {
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_add_epi32(_mm512_cvtps_epi32(n), _mm512_set1_epi32(127)), 23));
}
inline float sum(F a) { return _mm512_reduce_add_ps(a); }
inline float largest(F a) { return _mm512_reduce_max_ps(a); }
inline I iset1(int32_t x) { return _mm512_set1_epi32(x); }
inline I izero() { return _mm512_setzero_si512(); }
inline F to_float(I a) { return _mm512_cvtepi32_ps(a); }
inline void store_digits(int8_t* high, int8_t* low, F a) {
  const I code = _mm512_cvtps_epi32(a);
  const I upper = _mm512_srai_epi32(_mm512_add_epi32(code, _mm512_set1_epi32(128)), 8);
  _mm_storeu_si128((__m128i*)high, _mm512_cvtepi32_epi8(upper));
  _mm_storeu_si128((__m128i*)low, _mm512_cvtepi32_epi8(code));
}
inline Codes load_codes(const uint8_t* p) { return _mm512_loadu_si512(p); }
inline Codes low(Codes a) { return _mm512_and_si512(a, _mm512_set1_epi8(15)); }
inline Codes high(Codes a) { return low(_mm512_srli_epi16(a, 4)); }
inline I broadcast_quad(const int8_t* x) {
  int32_t four;
  memcpy(&four, x, 4);
  return _mm512_set1_epi32(four);
}
// To the sums of some rows, add the products of codes and 16-bit values: low digits lie 32 bytes after high ones.
// Chains of several rows alternate, so that few instructions wait in the processor's scheduler.
template <bool kFourBits, int kQuads, int kRows>
inline void add_dots(I (&sums)[kRows], const Codes* quads, const int8_t* digits, size_t stride) {
  I upper[kRows];
  for (int r = 0; r < kRows; ++r) upper[r] = izero();
  for (int j = 0; j < kQuads; ++j)
    for (int r = 0; r < kRows; ++r) {
      const int8_t* quad = digits + r * stride + 4 * j;
      upper[r] = _mm512_dpbusd_epi32(upper[r], quads[j], broadcast_quad(quad));
      sums[r] = _mm512_dpbusd_epi32(sums[r], quads[j], broadcast_quad(quad + 32));
    }
  for (int r = 0; r < kRows; ++r) sums[r] = _mm512_add_epi32(_mm512_slli_epi32(upper[r], 8), sums[r]);
}
inline void prefetch(const void* p) { _mm_prefetch(p, _MM_HINT_T0); }

}  // namespace
}  // namespace headrace
