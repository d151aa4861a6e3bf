// The layout of packed weights: one position-independent buffer that any process can map, the same for every ISA.
//
// header, table of entries, tensors at multiples of 64 bytes. A matrix [rows, cols] lies in tiles of 16 rows, so that a
// vector of 16 lanes computes 16 output rows. Rows are padded to whole tiles with zeros. A tile is:
//   float kinds  [cols][16] values
//   quantised    scales [groups][16] float16, minima [groups][16] float16 (kinds with minima), then the codes; each part
//                padded to 64 bytes
//   codes, w8    per 32 columns: [8][16 rows][4 columns], one byte each
//   codes, w4    per 32 columns: [4][16 rows][4 columns]; byte [j][r][c] has column 4j + c in its low half and column
//                16 + 4j + c in its high half
// A weight is scale * code + minimum (w4, w8m) or scale * (code - 128) (w8).
#pragma once
#include <cstddef>
#include <cstdint>

namespace headrace {

constexpr int kTileRows = 16;
constexpr size_t kAlign = 64;

enum Kind : uint32_t { kF32, kF16, kBF16, kW4, kW4G16, kW8, kW8G16, kW8M, kVector, kKinds };

struct Header {
  char magic[8];
  uint32_t version;
  uint32_t tensors;
  uint64_t bytes;
  uint8_t config_digest[32];
  uint8_t reserved[8];
};
static_assert(sizeof(Header) == 64);

struct Entry {
  uint32_t kind, rows, cols, reserved;
  uint64_t offset, bytes;
};
static_assert(sizeof(Entry) == 32);

constexpr char kMagic[8] = {'H', 'R', 'W', 'E', 'I', 'G', 'H', 'T'};
constexpr uint32_t kVersion = 1;

struct Matrix {
  uint32_t kind, rows, cols;
  const uint8_t* data;
};

static inline size_t aligned(size_t bytes) { return (bytes + kAlign - 1) / kAlign * kAlign; }
static inline bool quantised(uint32_t kind) { return kind >= kW4 && kind <= kW8M; }
static inline bool four_bits(uint32_t kind) { return kind == kW4 || kind == kW4G16; }
static inline bool has_minima(uint32_t kind) { return kind == kW4 || kind == kW4G16 || kind == kW8M; }
static inline int group_of(uint32_t kind) { return kind == kW4G16 || kind == kW8G16 ? 16 : 32; }
static inline int tiles_of(uint32_t rows) { return (rows + kTileRows - 1) / kTileRows; }

// Bytes of the scales (or the minima) of a tile.
static inline size_t scale_bytes(uint32_t kind, uint32_t cols) {
  return aligned(size_t(cols) / group_of(kind) * kTileRows * 2);
}

static inline size_t tile_bytes(uint32_t kind, uint32_t cols) {
  if (kind == kF32) return aligned(size_t(cols) * kTileRows * 4);
  if (!quantised(kind)) return aligned(size_t(cols) * kTileRows * 2);
  size_t codes = size_t(cols) * kTileRows / (four_bits(kind) ? 2 : 1);
  return scale_bytes(kind, cols) * (has_minima(kind) ? 2 : 1) + aligned(codes);
}

static inline size_t tensor_bytes(uint32_t kind, uint32_t rows, uint32_t cols) {
  if (kind == kVector) return aligned(size_t(rows) * cols * 4);
  return tile_bytes(kind, cols) * tiles_of(rows);
}

}  // namespace headrace
