#include "encodings.h"

namespace headrace {
namespace {

constexpr int8_t kIq4[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};

float half_at(const uint8_t* p) {
  uint16_t value;
  memcpy(&value, p, 2);
  return from_float16(value);
}

void scaled(Group& out, float scale, float minimum, int offset) {
  out.scales[0] = out.scales[1] = scale;
  out.minima[0] = out.minima[1] = minimum;
  out.offset = offset;
}

// The low halves of 16 bytes are the first 16 codes, the high halves the others.
void nibbles(const uint8_t* packed, Group& out) {
  for (int i = 0; i < 16; ++i) {
    out.codes[i] = packed[i] & 15;
    out.codes[16 + i] = packed[i] >> 4;
  }
}

void fifth_bits(const uint8_t* bits, Group& out) {
  for (int i = 0; i < 32; ++i) out.codes[i] |= (bits[i / 8] >> i % 8 & 1) << 4;
}

void q4_0(const uint8_t* b, int, Group& out) {
  nibbles(b + 2, out);
  scaled(out, half_at(b), 0, 8);
}

void q4_1(const uint8_t* b, int, Group& out) {
  nibbles(b + 4, out);
  scaled(out, half_at(b), half_at(b + 2), 0);
}

void q5_0(const uint8_t* b, int, Group& out) {
  nibbles(b + 6, out);
  fifth_bits(b + 2, out);
  scaled(out, half_at(b), 0, 16);
}

void q5_1(const uint8_t* b, int, Group& out) {
  nibbles(b + 8, out);
  fifth_bits(b + 4, out);
  scaled(out, half_at(b), half_at(b + 2), 0);
}

void q8_0(const uint8_t* b, int, Group& out) {
  for (int i = 0; i < 32; ++i) out.codes[i] = b[2 + i] ^ 0x80;
  scaled(out, half_at(b), 0, 128);
}

void iq4_codes(const uint8_t* packed, Group& out) {
  nibbles(packed, out);
  for (int i = 0; i < 32; ++i) out.codes[i] = uint8_t(kIq4[out.codes[i]] + 128);
}

void iq4_nl(const uint8_t* b, int, Group& out) {
  iq4_codes(b + 2, out);
  scaled(out, half_at(b), 0, 128);
}

void iq4_xs(const uint8_t* b, int g, Group& out) {
  int low = b[4 + g / 2] >> 4 * (g % 2) & 15, high = (b[2] | b[3] << 8) >> 2 * g & 3;
  iq4_codes(b + 8 + 16 * g, out);
  scaled(out, half_at(b) * float((low | high << 4) - 32), 0, 128);
}

// Two bits of each of 32 bytes; four groups share the bytes.
void pairs(const uint8_t* packed, int g, Group& out) {
  for (int i = 0; i < 32; ++i) out.codes[i] = packed[g / 4 * 32 + i] >> 2 * (g % 4) & 3;
}

void q2_k(const uint8_t* b, int g, Group& out) {
  pairs(b + 16, g, out);
  out.offset = 0;
  for (int part = 0; part < 2; ++part) {
    uint8_t both = b[2 * g + part];
    out.scales[part] = half_at(b + 80) * float(both & 15);
    out.minima[part] = -half_at(b + 82) * float(both >> 4);
  }
}

void q3_k(const uint8_t* b, int g, Group& out) {
  pairs(b + 32, g, out);
  for (int i = 0; i < 32; ++i) out.codes[i] |= (b[i] >> g & 1) << 2;
  out.offset = 4;
  for (int part = 0; part < 2; ++part) {
    int s = 2 * g + part, low = b[96 + s % 8] >> 4 * (s / 8) & 15, high = b[104 + s % 4] >> 2 * (s / 4) & 3;
    out.scales[part] = half_at(b + 108) * float((low | high << 4) - 32);
    out.minima[part] = 0;
  }
}

// The scales and minima of Q4_K and Q5_K, six bits each.
void k_scales(const uint8_t* b, int g, Group& out) {
  int scale, minimum;
  if (g < 4) {
    scale = b[4 + g] & 63;
    minimum = b[8 + g] & 63;
  } else {
    scale = (b[8 + g] & 15) | (b[g] >> 2 & 48);
    minimum = b[8 + g] >> 4 | (b[4 + g] >> 2 & 48);
  }
  scaled(out, half_at(b) * float(scale), -half_at(b + 2) * float(minimum), 0);
}

void q4_k(const uint8_t* b, int g, Group& out) {
  for (int i = 0; i < 32; ++i) out.codes[i] = b[16 + g / 2 * 32 + i] >> 4 * (g % 2) & 15;
  k_scales(b, g, out);
}

void q5_k(const uint8_t* b, int g, Group& out) {
  for (int i = 0; i < 32; ++i)
    out.codes[i] = (b[48 + g / 2 * 32 + i] >> 4 * (g % 2) & 15) | (b[16 + i] >> g & 1) << 4;
  k_scales(b, g, out);
}

void q6_k(const uint8_t* b, int g, Group& out) {
  pairs(b + 128, g, out);
  const uint8_t* low = b + g / 4 * 64 + g % 2 * 32;
  for (int i = 0; i < 32; ++i) out.codes[i] = (low[i] >> 4 * (g % 4 / 2) & 15) | out.codes[i] << 4;
  out.offset = 32;
  for (int part = 0; part < 2; ++part) {
    out.scales[part] = half_at(b + 208) * float(int8_t(b[192 + 2 * g + part]));
    out.minima[part] = 0;
  }
}

}  // namespace

const Encoding* encoding_of(uint32_t type) {
  static const Encoding kQ4_0{32, 18, kW4, q4_0}, kQ4_1{32, 20, kW4, q4_1}, kQ5_0{32, 22, kW8, q5_0},
      kQ5_1{32, 24, kW8M, q5_1}, kQ8_0{32, 34, kW8, q8_0}, kQ2_K{256, 84, kW4G16, q2_k}, kQ3_K{256, 110, kW4G16, q3_k},
      kQ4_K{256, 144, kW4, q4_k}, kQ5_K{256, 176, kW8M, q5_k}, kQ6_K{256, 210, kW8G16, q6_k},
      kIq4Nl{32, 18, kW8, iq4_nl}, kIq4Xs{256, 136, kW8, iq4_xs};
  switch (type) {
    case 2: return &kQ4_0;
    case 3: return &kQ4_1;
    case 6: return &kQ5_0;
    case 7: return &kQ5_1;
    case 8: return &kQ8_0;
    case 10: return &kQ2_K;
    case 11: return &kQ3_K;
    case 12: return &kQ4_K;
    case 13: return &kQ5_K;
    case 14: return &kQ6_K;
    case 20: return &kIq4Nl;
    case 23: return &kIq4Xs;
  }
  return nullptr;
}

}  // namespace headrace
