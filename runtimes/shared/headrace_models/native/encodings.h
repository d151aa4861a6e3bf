// The block encodings of ggml, a group of 32 weights at a time (the layouts of `ggml-common.h` of ggml; `quant.py` decodes
// the same to float32).
#pragma once
#include "half.h"
#include "packed.h"

namespace headrace {

// 32 consecutive weights: scale * (code - offset) + minimum, each scale and minimum for 16 of them.
struct Group {
  uint8_t codes[32];
  float scales[2], minima[2];
  int offset;
};

struct Encoding {
  int block_values;
  int block_bytes;
  Kind kind;  // that holds it
  void (*decode)(const uint8_t* block, int group, Group& out);
};

// Null for a type of ggml that is not block encoded or not known.
const Encoding* encoding_of(uint32_t ggml_type);

enum GgmlType : uint32_t { kGgmlF32 = 0, kGgmlF16 = 1, kGgmlBF16 = 30 };

}  // namespace headrace
