// Vectors of 16 lanes in AVX2, as two halves. No templates of the standard library here: see isa_portable.h.
#pragma once
#include <immintrin.h>

#include "half.h"

namespace headrace {
namespace {

constexpr int kMaxRows = 4, kMaxFloatRows = 2, kChainedRows = 1;

struct F {
  __m256 a, b;
};
struct I {
  __m256i a, b;
};
using Codes = I;

inline __m256i load_words(const void* p) { return _mm256_loadu_si256((const __m256i*)p); }
inline __m128i load_half(const void* p) { return _mm_loadu_si128((const __m128i*)p); }

inline F zero() { return {_mm256_setzero_ps(), _mm256_setzero_ps()}; }
inline F set1(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
inline F load(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
inline void store(float* p, F x) {
  _mm256_storeu_ps(p, x.a);
  _mm256_storeu_ps(p + 8, x.b);
}
inline F load_f16(const uint16_t* p) { return {_mm256_cvtph_ps(load_half(p)), _mm256_cvtph_ps(load_half(p + 8))}; }
inline void store_f16(uint16_t* p, F x) {
  _mm_storeu_si128((__m128i*)p, _mm256_cvtps_ph(x.a, 0));
  _mm_storeu_si128((__m128i*)(p + 8), _mm256_cvtps_ph(x.b, 0));
}
inline __m256 widen_bf16(const uint16_t* p) {
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(load_half(p)), 16));
}
inline F load_bf16(const uint16_t* p) { return {widen_bf16(p), widen_bf16(p + 8)}; }
inline F add(F x, F y) { return {_mm256_add_ps(x.a, y.a), _mm256_add_ps(x.b, y.b)}; }
inline F sub(F x, F y) { return {_mm256_sub_ps(x.a, y.a), _mm256_sub_ps(x.b, y.b)}; }
inline F mul(F x, F y) { return {_mm256_mul_ps(x.a, y.a), _mm256_mul_ps(x.b, y.b)}; }
inline F div(F x, F y) { return {_mm256_div_ps(x.a, y.a), _mm256_div_ps(x.b, y.b)}; }
inline F fma(F x, F y, F z) { return {_mm256_fmadd_ps(x.a, y.a, z.a), _mm256_fmadd_ps(x.b, y.b, z.b)}; }
inline F max(F x, F y) { return {_mm256_max_ps(x.a, y.a), _mm256_max_ps(x.b, y.b)}; }
inline F min(F x, F y) { return {_mm256_min_ps(x.a, y.a), _mm256_min_ps(x.b, y.b)}; }
inline F abs(F x) {
  const __m256 sign = _mm256_set1_ps(-0.0f);
  return {_mm256_andnot_ps(sign, x.a), _mm256_andnot_ps(sign, x.b)};
}
inline F keep_from(F y, F x, float limit) {
  const __m256 least = _mm256_set1_ps(limit);
  return {_mm256_and_ps(y.a, _mm256_cmp_ps(x.a, least, _CMP_GE_OQ)),
          _mm256_and_ps(y.b, _mm256_cmp_ps(x.b, least, _CMP_GE_OQ))};
}
inline F round(F x) { return {_mm256_round_ps(x.a, 0), _mm256_round_ps(x.b, 0)}; }
inline __m256 power_of_two(__m256 n) {
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127)), 23));
}
inline F power_of_two(F n) { return {power_of_two(n.a), power_of_two(n.b)}; }
inline float sum(F x) {
  __m256 eight = _mm256_add_ps(x.a, x.b);
  __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  four = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(four, _mm_movehdup_ps(four)));
}
inline float largest(F x) {
  __m256 eight = _mm256_max_ps(x.a, x.b);
  __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  four = _mm_max_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_max_ss(four, _mm_movehdup_ps(four)));
}
inline I iset1(int32_t x) { return {_mm256_set1_epi32(x), _mm256_set1_epi32(x)}; }
inline I izero() { return {_mm256_setzero_si256(), _mm256_setzero_si256()}; }
inline F to_float(I x) { return {_mm256_cvtepi32_ps(x.a), _mm256_cvtepi32_ps(x.b)}; }
inline void store_bytes(int8_t* p, __m256i a, __m256i b) {
  __m256i words = _mm256_permute4x64_epi64(_mm256_packs_epi32(a, b), 0xd8);
  _mm_storeu_si128((__m128i*)p, _mm_packs_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1)));
}
inline __m256i high_digit(__m256i code) { return _mm256_srai_epi32(_mm256_add_epi32(code, _mm256_set1_epi32(128)), 8); }
inline __m256i low_digit(__m256i code) { return _mm256_srai_epi32(_mm256_slli_epi32(code, 24), 24); }
inline void store_digits(int8_t* high, int8_t* low, F x) {
  const __m256i a = _mm256_cvtps_epi32(x.a), b = _mm256_cvtps_epi32(x.b);
  store_bytes(high, high_digit(a), high_digit(b));
  store_bytes(low, low_digit(a), low_digit(b));
}
inline Codes load_codes(const uint8_t* p) { return {load_words(p), load_words(p + 32)}; }
inline Codes low(Codes x) {
  const __m256i mask = _mm256_set1_epi8(15);
  return {_mm256_and_si256(x.a, mask), _mm256_and_si256(x.b, mask)};
}
inline Codes high(Codes x) { return low({_mm256_srli_epi16(x.a, 4), _mm256_srli_epi16(x.b, 4)}); }

inline __m256i broadcast_quad(const void* x) {
  int32_t four;
  memcpy(&four, x, 4);
  return _mm256_set1_epi32(four);
}
inline __m256i add_bytes(__m256i sum, __m256i codes, __m256i values) {
  return _mm256_add_epi16(sum, _mm256_maddubs_epi16(codes, values));
}
// The digits' sums of words. 16 products of 4-bit codes and digits are at most 16 * 15 * 128 < 2^15.
inline __m256i joined(__m256i high, __m256i low) {
  return _mm256_add_epi32(_mm256_madd_epi16(high, _mm256_set1_epi16(256)), _mm256_madd_epi16(low, _mm256_set1_epi16(1)));
}
inline __m256i add_words(__m256i sum, __m256i codes, __m256i even, __m256i odd) {
  sum = _mm256_add_epi32(sum, _mm256_madd_epi16(_mm256_and_si256(codes, _mm256_set1_epi16(255)), even));
  return _mm256_add_epi32(sum, _mm256_madd_epi16(_mm256_srli_epi16(codes, 8), odd));
}
// Products of the codes and the 16-bit values of a row. 8-bit codes need words: values of even and odd columns apart.
template <bool kFourBits, int kQuads>
inline I dot(I start, const Codes* quads, const int8_t* high, const int8_t* low) {
  if constexpr (kFourBits) {
    I upper = izero(), lower = izero();
    for (int j = 0; j < kQuads; ++j) {
      const __m256i first = broadcast_quad(high + 4 * j), second = broadcast_quad(low + 4 * j);
      upper = {add_bytes(upper.a, quads[j].a, first), add_bytes(upper.b, quads[j].b, first)};
      lower = {add_bytes(lower.a, quads[j].a, second), add_bytes(lower.b, quads[j].b, second)};
    }
    return {_mm256_add_epi32(start.a, joined(upper.a, lower.a)), _mm256_add_epi32(start.b, joined(upper.b, lower.b))};
  } else {
    alignas(32) int16_t even[16], odd[16];
    for (int i = 0; i < 2 * kQuads; ++i) {
      even[i] = int16_t(256 * high[2 * i] + low[2 * i]);
      odd[i] = int16_t(256 * high[2 * i + 1] + low[2 * i + 1]);
    }
    for (int j = 0; j < kQuads; ++j) {
      const __m256i first = broadcast_quad(even + 2 * j), second = broadcast_quad(odd + 2 * j);
      start = {add_words(start.a, quads[j].a, first, second), add_words(start.b, quads[j].b, first, second)};
    }
    return start;
  }
}
// To the sums of some rows, add the products of codes and 16-bit values: low digits lie 32 bytes after high ones.
template <bool kFourBits, int kQuads, int kRows>
inline void add_dots(I (&sums)[kRows], const Codes* quads, const int8_t* digits, size_t stride) {
  for (int r = 0; r < kRows; ++r, digits += stride)
    sums[r] = dot<kFourBits, kQuads>(sums[r], quads, digits, digits + 32);
}
inline void prefetch(const void* p) { _mm_prefetch((const char*)p, _MM_HINT_T0); }

}  // namespace
}  // namespace headrace
