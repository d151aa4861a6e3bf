// Vectors of 16 lanes in plain C++: the reference of the other ISAs. No templates of the standard library here: a
// shared instance would be compiled with the flags of any translation unit.
#pragma once
#include <cmath>

#include "half.h"

namespace headrace {
namespace {

constexpr int kMaxRows = 4, kMaxFloatRows = 2, kChainedRows = 1;

struct F {
  float v[16];
};
struct I {
  int32_t v[16];
};
struct Codes {
  uint8_t v[64];
};

#define EACH for (int i = 0; i < 16; ++i)
inline F zero() { return F{}; }
inline F set1(float x) { F r; EACH r.v[i] = x; return r; }
inline F load(const float* p) { F r; memcpy(r.v, p, 64); return r; }
inline void store(float* p, F a) { memcpy(p, a.v, 64); }
inline F load_f16(const uint16_t* p) { F r; EACH r.v[i] = from_float16(p[i]); return r; }
inline void store_f16(uint16_t* p, F a) { EACH p[i] = to_float16(a.v[i]); }
inline F load_bf16(const uint16_t* p) { F r; EACH r.v[i] = from_bfloat16(p[i]); return r; }
inline F add(F a, F b) { EACH a.v[i] += b.v[i]; return a; }
inline F sub(F a, F b) { EACH a.v[i] -= b.v[i]; return a; }
inline F mul(F a, F b) { EACH a.v[i] *= b.v[i]; return a; }
inline F div(F a, F b) { EACH a.v[i] /= b.v[i]; return a; }
inline F fma(F a, F b, F c) { EACH c.v[i] += a.v[i] * b.v[i]; return c; }
inline F max(F a, F b) { EACH a.v[i] = a.v[i] > b.v[i] ? a.v[i] : b.v[i]; return a; }
inline F min(F a, F b) { EACH a.v[i] = a.v[i] < b.v[i] ? a.v[i] : b.v[i]; return a; }
inline F abs(F a) { EACH a.v[i] = fabsf(a.v[i]); return a; }
inline F keep_from(F a, F x, float limit) { EACH a.v[i] = x.v[i] >= limit ? a.v[i] : 0.0f; return a; }
inline F round(F a) { EACH a.v[i] = nearbyintf(a.v[i]); return a; }
inline F power_of_two(F n) { EACH n.v[i] = bits_to_float(uint32_t(int32_t(n.v[i]) + 127) << 23); return n; }
inline float sum(F a) {
  for (int step = 8; step; step /= 2)
    for (int i = 0; i < step; ++i) a.v[i] += a.v[i + step];
  return a.v[0];
}
inline float largest(F a) {
  for (int i = 1; i < 16; ++i) a.v[0] = a.v[i] > a.v[0] ? a.v[i] : a.v[0];
  return a.v[0];
}
inline I iset1(int32_t x) { I r; EACH r.v[i] = x; return r; }
inline I izero() { return I{}; }
inline F to_float(I a) { F r; EACH r.v[i] = float(a.v[i]); return r; }
inline void store_digits(int8_t* high, int8_t* low, F a) {
  EACH {
    int code = int(a.v[i]), upper = (code + 128) >> 8;
    high[i] = int8_t(upper);
    low[i] = int8_t(code - 256 * upper);
  }
}
inline Codes load_codes(const uint8_t* p) { Codes r; memcpy(r.v, p, 64); return r; }
inline Codes low(Codes a) { for (int i = 0; i < 64; ++i) a.v[i] &= 15; return a; }
inline Codes high(Codes a) { for (int i = 0; i < 64; ++i) a.v[i] >>= 4; return a; }
// To the sums of some rows, add the products of codes and 16-bit values: low digits lie 32 bytes after high ones.
template <bool kFourBits, int kQuads, int kRows>
inline void add_dots(I (&sums)[kRows], const Codes* quads, const int8_t* digits, size_t stride) {
  for (int r = 0; r < kRows; ++r)
    for (int k = 0; k < 4 * kQuads; ++k) {
      int32_t value = 256 * digits[r * stride + k] + digits[r * stride + 32 + k];
      EACH sums[r].v[i] += quads[k / 4].v[4 * i + k % 4] * value;
    }
}
inline void prefetch(const void* p) { __builtin_prefetch(p); }
#undef EACH

}  // namespace
}  // namespace headrace
