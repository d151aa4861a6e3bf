// float16 and bfloat16 by integer operations, for code that must run on any processor.
#pragma once
#include <cstdint>
#include <cstring>

namespace headrace {

static inline float bits_to_float(uint32_t bits) {
  float value;
  memcpy(&value, &bits, 4);
  return value;
}

static inline uint32_t float_to_bits(float value) {
  uint32_t bits;
  memcpy(&bits, &value, 4);
  return bits;
}

static inline float from_bfloat16(uint16_t value) { return bits_to_float(uint32_t(value) << 16); }

static inline float from_float16(uint16_t value) {
  uint32_t sign = uint32_t(value & 0x8000) << 16, rest = value & 0x7fff;
  if (rest >= 0x7c00) return bits_to_float(sign | 0x7f800000 | (rest & 0x3ff) << 13);
  // Multiplication by 2^112 adjusts the exponent and normalises subnormal values.
  return bits_to_float(sign | float_to_bits(bits_to_float(rest << 13) * 0x1p112f));
}

// Round to nearest, ties to even; values out of range become infinite.
static inline uint16_t to_float16(float value) {
  uint32_t bits = float_to_bits(value), sign = bits >> 16 & 0x8000;
  bits &= 0x7fffffff;
  if (bits > 0x7f800000) return sign | 0x7e00;
  if (bits >= 0x477ff000) return sign | 0x7c00;
  if (bits < 0x38800000) {  // subnormal: the addition of 0.5 rounds at the right bit
    return sign | uint16_t(float_to_bits(bits_to_float(bits) + 0.5f) - 0x3f000000);
  }
  return sign | uint16_t((bits + 0xfff + (bits >> 13 & 1) - 0x38000000) >> 13);
}

}  // namespace headrace
