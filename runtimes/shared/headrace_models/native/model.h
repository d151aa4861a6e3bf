// A decoder's weights, found in a packed buffer and checked against its configuration.
#pragma once
#include <string>
#include <vector>

#include "abi.h"
#include "packed.h"

namespace headrace {

struct FeedForward {
  Matrix gate, up, down;
};

struct Layer {
  const float* attention_norm;
  Matrix q, k, v;
  const float *q_bias, *k_bias, *v_bias;  // null without qkv_bias
  const float *q_norm, *k_norm;           // null without qk_norm
  Matrix output;
  const float* post_attention_norm;  // null without post_norms
  const float* ffn_norm;
  FeedForward ffn;  // with experts: the shared expert
  const float* post_ffn_norm;
  bool has_experts;
  Matrix router;
  const float* score_bias;            // null without score_bias
  const float* shared_gate;           // null without shared_gate
  std::vector<FeedForward> experts;  // empty if the caller gives them
};

struct Model {
  Config config;
  std::vector<float> frequencies, window_frequencies;
  std::vector<int32_t> windows;
  Matrix embedding, head;
  const float* norm;
  std::vector<Layer> layers;

  // Returns an empty text, or why the buffer is not this model's.
  std::string bind(const Config& config, const uint8_t* packed, uint64_t bytes);
};

}  // namespace headrace
