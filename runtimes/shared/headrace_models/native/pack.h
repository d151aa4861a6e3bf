// Repacking of a stored tensor (a GGUF encoding, or float values) into the layout of packed.h.
#pragma once
#include "packed.h"

namespace headrace {

// The kind that keeps a tensor's values: exactly, or up to the rounding of combined scales to float16 (Q2_K to Q6_K,
// IQ4_XS). kKinds for an unknown type.
Kind kind_of(uint32_t ggml_type);

// Row i of the result is the stored row `row_order[i]` (null: i). `kind` is kVector, kF32 or kind_of(type). Returns false
// if it is another, or the type is unknown.
bool pack(uint32_t ggml_type, const uint8_t* data, uint32_t rows, uint32_t cols, const int32_t* row_order, uint32_t kind,
          uint8_t* out);

}  // namespace headrace
