// The kernels of one ISA, as a table of functions. Each is compiled once per ISA, in a translation unit of its own.
//
// Batch invariance: every output element is computed by the same sequence of operations, whatever the number of rows, the
// chunks and the threads. Sums are never split over `cols` or over positions.
#pragma once
#include "packed.h"

namespace headrace {

// Rows of activations. Quantised kinds of weights use `codes` and what belongs to them, float kinds use `values`.
// A row has cols / 32 groups: value = scale * code, a code of 16 bits = 256 * high + low, and `codes` has per group 32
// high digits, then 32 low ones. With one digit the logits of SmolLM2 differ by 0.4 (root mean square) from those of
// float32 activations, with two by 0.002. Per group `sum` = scale * (sum of codes), `offset` = -128 * (sum
// of codes); `halves` has the sums of codes of each 16 columns.
struct Activations {
  const float* values;
  const int8_t* codes;
  const float* scales;
  const float* sums;
  const int32_t* offsets;
  const int32_t* halves;
  size_t stride;  // of a row, in values; a multiple of 32
};

struct QuantisedRow {
  int8_t* codes;
  float* scales;
  float* sums;
  int32_t* offsets;
  int32_t* halves;
};

// One KV head of one layer: what the rows of an attention item share.
struct AttentionArgs {
  const uint8_t* cache;  // the layer's first block
  size_t block_bytes;    // from a block to the next
  size_t head_offset;    // of this head in a block
  const int32_t* blocks;
  int block_tokens;
  int head_dim;
  int heads_per_kv;
  int window;  // 0: all positions
  bool half;   // float16, else float32
  float score_factor;
  const float* queries;  // row (token, head): queries + token * stride + head * head_dim
  size_t query_stride;
  float* out;  // the same shape
  size_t out_stride;
  int position;  // of token 0
};

struct Kernels {
  const char* name;
  // out[m * stride + row] = or += (matrix x activations), rows of tiles [tile, tile_end), tokens [m, m_end).
  void (*matmul)(const Matrix&, int tile, int tile_end, const Activations&, int m, int m_end, float* out, size_t stride,
                 bool add);
  void (*row)(const Matrix&, uint32_t row, float factor, float* out);
  // out = x / rms(x) * weight; `out` may be `x`.
  void (*rms_norm)(const float* x, const float* weight, float epsilon, int n, float* out);
  void (*quantise)(const float* x, int n, const QuantisedRow& out);
  // gate = activation(gate) * up
  void (*gate)(float* gate, const float* up, int n, bool gelu);
  void (*rotate)(float* head, const float* cosines, const float* sines, int half);
  void (*add)(float* to, const float* from, int n);
  // Write a key or a value to a slot of a head in a block.
  void (*write_kv)(const float* row, bool is_value, int head_dim, bool half, uint8_t* head, int block_tokens, int slot);
  // Attention of rows [row, row_end), row = token * heads_per_kv + head; `scores` has room for 4 * (positions + 64).
  void (*attend)(const AttentionArgs&, int row, int row_end, float* scores);
};

extern const Kernels kPortable;
#if defined(__x86_64__)
extern const Kernels kAvx2;
extern const Kernels kAvx512;
#endif

// The fastest kernels of this processor, or those named by the environment variable HEADRACE_ISA (null: not possible).
const Kernels* select_kernels();

}  // namespace headrace
