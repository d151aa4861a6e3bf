// The C interface of the library; `library.py` has the same structures. Any change increments kAbi.
#pragma once
#include <cstdint>

#define HEADRACE_API extern "C" __attribute__((visibility("default")))

namespace headrace {

constexpr int32_t kAbi = 3;

// DecoderConfig, and the rotation frequencies [head_dim / 2] of layers without and with a window.
struct Config {
  int32_t layers, width, heads, kv_heads, head_dim, ffn_width, vocabulary;
  int32_t qkv_bias, qk_norm, post_norms, gelu, tied;
  float norm_epsilon, embedding_scale, score_factor;
  const float* frequencies;
  const float* window_frequencies;
  const int32_t* windows;  // [layers]
  int32_t wide_qk_norm;
  // ExpertsConfig; `experts` 0: the model is dense. `given_experts`: the caller gives the matrices of experts in each step.
  int32_t experts, experts_used, expert_width, shared_width, shared_gate, sigmoid, score_bias, normalised, first_experts;
  int32_t given_experts;
  float expert_scale;
};

// The matrices of an expert, at addresses aligned to 64 bytes, which stay valid until they are computed with.
struct ExpertArgs {
  const uint8_t *gate, *up, *down;
  uint32_t gate_kind, up_kind, down_kind;
  int32_t expert;
};

// What the gate of a layer chose.
struct RoutingArgs {
  int32_t layer, tokens;
  const int32_t* experts;  // [tokens, experts_used], by falling score
  const float* weights;    // the same shape
};

// What a call of the decoder returned.
enum Status : int32_t { kDone, kFailed, kExpertsNeeded };

struct SegmentArgs {
  int32_t first_block;  // index into `blocks` of the batch
  int32_t blocks;
  int32_t start, count;
  int32_t adapter;  // index of its LoRA adapter; 0: none
};

struct BatchArgs {
  const int32_t* tokens;
  const SegmentArgs* segments;
  const int32_t* blocks;
  const int32_t* outputs;  // null: the normed hidden states of all tokens are returned instead of logits
  int32_t token_count, segment_count, block_count, output_count;
};

// A matrix of an adapter: A [rank, cols] and B [rows, rank] in the layout of packed.h, float32. Rank 0: none.
struct LoraArgs {
  const uint8_t* a;
  const uint8_t* b;
  int32_t rank;
};

struct CacheArgs {
  uint8_t* memory;
  uint64_t bytes;
  int32_t blocks, block_tokens, half;
};

}  // namespace headrace
