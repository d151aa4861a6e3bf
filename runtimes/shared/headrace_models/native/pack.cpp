#include "pack.h"

#include <vector>

#include "encodings.h"

namespace headrace {
namespace {

struct Source {
  uint32_t type;
  const Encoding* encoding;
  const uint8_t* data;
  uint32_t rows, cols;
  const int32_t* order;

  size_t row_bytes() const {
    if (encoding) return size_t(cols) / encoding->block_values * encoding->block_bytes;
    return size_t(cols) * (type == kGgmlF32 ? 4 : 2);
  }
  const uint8_t* row(uint32_t i) const { return data + row_bytes() * (order ? order[i] : i); }

  void group(const uint8_t* row, uint32_t g, Group& out) const {
    uint32_t per_block = encoding->block_values / 32;
    encoding->decode(row + size_t(g / per_block) * encoding->block_bytes, g % per_block, out);
  }

  void values(uint32_t i, float* out) const {
    const uint8_t* from = row(i);
    if (type == kGgmlF32) {
      memcpy(out, from, size_t(cols) * 4);
    } else if (!encoding) {
      for (uint32_t k = 0; k < cols; ++k) {
        uint16_t value;
        memcpy(&value, from + 2 * size_t(k), 2);
        out[k] = type == kGgmlF16 ? from_float16(value) : from_bfloat16(value);
      }
    } else {
      Group group_;
      for (uint32_t g = 0; g < cols / 32; ++g) {
        group(from, g, group_);
        for (int i = 0; i < 32; ++i)
          out[32 * g + i] = float(group_.codes[i] - group_.offset) * group_.scales[i / 16] + group_.minima[i / 16];
      }
    }
  }
};

// Tiles of [cols][16] values of 4 or 2 bytes.
template <class T>
void pack_floats(const Source& source, uint32_t kind, uint8_t* out) {
  std::vector<float> decoded(source.cols);
  for (int tile = 0; tile < tiles_of(source.rows); ++tile) {
    T* to = reinterpret_cast<T*>(out + tile_bytes(kind, source.cols) * tile);
    for (uint32_t r = 0; r < kTileRows; ++r) {
      const uint32_t row = tile * kTileRows + r;
      const uint8_t* from = nullptr;
      if (row < source.rows && sizeof(T) == 4) {
        source.values(row, decoded.data());
        from = reinterpret_cast<const uint8_t*>(decoded.data());
      } else if (row < source.rows) {
        from = source.row(row);
      }
      for (uint32_t k = 0; k < source.cols; ++k) {
        T value = 0;
        if (from) memcpy(&value, from + sizeof(T) * k, sizeof(T));
        to[size_t(k) * kTileRows + r] = value;
      }
    }
  }
}

void pack_codes(const Source& source, uint32_t kind, uint8_t* out) {
  const int parts = 32 / group_of(kind);
  const size_t scale_size = scale_bytes(kind, source.cols);
  const bool minima = has_minima(kind), four = four_bits(kind);
  for (int tile = 0; tile < tiles_of(source.rows); ++tile) {
    uint8_t* to = out + tile_bytes(kind, source.cols) * tile;
    uint16_t* scales = reinterpret_cast<uint16_t*>(to);
    uint16_t* lows = reinterpret_cast<uint16_t*>(to + scale_size);
    uint8_t* codes = to + scale_size * (minima ? 2 : 1);
    for (uint32_t r = 0; r < kTileRows; ++r) {
      const uint32_t row = tile * kTileRows + r;
      const uint8_t* from = row < source.rows ? source.row(row) : nullptr;
      Group group{};
      group.offset = minima ? 0 : 128;
      for (uint32_t g = 0; g < source.cols / 32; ++g) {
        if (from) source.group(from, g, group);
        for (int part = 0; part < parts; ++part) {
          const size_t at = size_t(g * parts + part) * kTileRows + r;
          scales[at] = to_float16(group.scales[part]);
          // From the rounded scale, so that a code equal to the offset stays zero.
          if (minima)
            lows[at] = to_float16(group.minima[part] - float(group.offset) * from_float16(scales[at]));
        }
        uint8_t* quads = codes + size_t(g) * (four ? 256 : 512) + r * 4;
        uint8_t bytes[32];
        if (four)
          for (int i = 0; i < 16; ++i) bytes[i] = uint8_t(group.codes[i] | group.codes[16 + i] << 4);
        else
          for (int i = 0; i < 32; ++i) bytes[i] = uint8_t(group.codes[i] + (minima ? 0 : 128 - group.offset));
        for (int j = 0; j < (four ? 4 : 8); ++j) memcpy(quads + 64 * j, bytes + 4 * j, 4);
      }
    }
  }
}

}  // namespace

Kind kind_of(uint32_t type) {
  const Encoding* encoding = encoding_of(type);
  if (encoding) return encoding->kind;
  return type == kGgmlF32 ? kF32 : type == kGgmlF16 ? kF16 : type == kGgmlBF16 ? kBF16 : kKinds;
}

bool pack(uint32_t type, const uint8_t* data, uint32_t rows, uint32_t cols, const int32_t* row_order, uint32_t kind,
          uint8_t* out) {
  const Source source{type, encoding_of(type), data, rows, cols, row_order};
  const Kind own = kind_of(type);
  if (own == kKinds || (kind != own && kind != kVector && kind != kF32)) return false;
  if (kind == kVector) {
    for (uint32_t i = 0; i < rows; ++i) source.values(i, reinterpret_cast<float*>(out) + size_t(i) * cols);
  } else if (kind == kF32) {
    pack_floats<float>(source, kind, out);
  } else if (quantised(kind)) {
    pack_codes(source, kind, out);
  } else {
    pack_floats<uint16_t>(source, kind, out);
  }
  return true;
}

}  // namespace headrace
