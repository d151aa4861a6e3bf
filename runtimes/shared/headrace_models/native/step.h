// A decoder: weights, cache, buffers and threads; `step` computes a batch.
#pragma once
#include <memory>
#include <new>
#include <string>
#include <vector>

#include "kernels.h"
#include "lora.h"
#include "model.h"
#include "pool.h"

namespace headrace {

constexpr int kTokensPerItem = 128;  // whose activations stay in the second-level cache

inline int ceil_div(int a, int b) { return (a + b - 1) / b; }

// Memory for the activations of a step, grown when needed and aligned for vectors.
template <class T>
class Buffer {
 public:
  void reserve(size_t count) {
    if (count <= size_) return;
    size_ = count + count / 4;
    data_.reset(static_cast<T*>(::operator new(size_ * sizeof(T), std::align_val_t(64))));
  }
  T* get() const { return data_.get(); }

 private:
  struct Free {
    void operator()(T* p) const { ::operator delete(p, std::align_val_t(64)); }
  };
  std::unique_ptr<T, Free> data_;
  size_t size_ = 0;
};

// Rows that are the input of a matrix, in float32 and quantised.
struct Input {
  size_t stride = 0;
  Buffer<float> values;
  Buffer<int8_t> codes;
  Buffer<float> scales, sums;
  Buffer<int32_t> offsets, halves;

  void reserve(size_t rows, size_t cols);
  // Copy a row, values and codes, from another input of the same width.
  void copy_row(size_t to, const Input& from, size_t row, bool codes_too) const;
  float* row(size_t m) const { return values.get() + m * stride; }
  QuantisedRow quantised_row(size_t m, size_t col = 0) const;
  Activations activations() const;
};

class Decoder {
 public:
  Decoder(const Kernels& kernels, int threads) : kernels_(kernels), thread_count_(threads) {}

  // Each returns an empty text, or what is wrong with the arguments.
  std::string open(const Config& config, const uint8_t* packed, uint64_t bytes);
  std::string allocate(const CacheArgs& cache);
  std::string set_adapter(int index, const LoraArgs* args) { return lora_.set(index, args, model_); }
  // Compute a batch. If the caller gives the experts, this stops after the gate of each layer with experts and returns
  // kExpertsNeeded; `resume` computes those that it gets, in any order and number, and goes on when the layer has all.
  // Results do not depend on the order. The batch's memory stays valid until kDone.
  Status step(const BatchArgs& batch, float* out, std::string& error);
  Status resume(const ExpertArgs* experts, int count, std::string& error);
  RoutingArgs routing() const;
  // Whether a step waits for experts.
  bool waits() const { return waiting_; }
  // Scores (before softmax or sigmoid) of a later layer's gate for the present hidden states: [tokens, experts]. Called
  // while a step waits.
  std::string look_ahead(int layer, float* scores);

  // Bytes of a layer's block: keys and values of all KV heads.
  static uint64_t block_bytes(const Config& config, int block_tokens, bool half);
  const Kernels& kernels() const { return kernels_; }

 private:
  enum class Work { kEmbed, kAttentionNorm, kQkv, kAttend, kQuantiseAttended, kOutput, kPostAttention, kFfnNorm,
                    kGateUp, kDown, kPostFfn, kFinalNorm, kHead, kShrinkQkv, kShrinkOutput, kShrinkGateUp, kShrinkDown, kSharedGateUp,
                    kSharedDown, kRoute, kDispatch, kExpertGateUp, kExpertDown, kCombine };
  struct Phase {
    Work work;
    int layer, items;
  };
  // Where the work of a matrix product is cut: tiles, then tokens.
  struct Cut {
    int tiles, parts, tokens;
  };
  struct Range {
    int tile, tile_end, m, m_end;
  };
  struct Queries {  // one item of attention
    int segment, kv_head, row, row_end;
  };

  std::string check(const BatchArgs& batch) const;
  void plan(const BatchArgs& batch);
  void reserve(const BatchArgs& batch);
  Cut cut(const Matrix& matrix, int tiles, int tokens) const;
  Range range(const Matrix& matrix, const Cut& cut, int item) const;
  static void run_item(void* self, int phase, int item, int thread);
  void run(const Phase& phase, int item, int thread);
  void embed(int m);
  void normed(int m, const float* x, const float* weight, const Input& to, bool quantise);
  void qkv(const Layer& layer, int index, int item);
  void finish_heads(const Layer& layer, int index, int part, const Range& range);
  void attend(int layer, int item, int thread);
  Range product(const Matrix& matrix, const Cut& cut, int item, const Input& input, float* out, size_t stride, bool add);
  void adapt(int layer, Adapted matrix, const Range& range, float* out, size_t stride) const {
    lora_.expand(kernels_, layer, matrix, range.tile, range.tile_end, range.m, range.m_end, out, stride);
  }
  void gate_up(const FeedForward& ffn, const Input& input, const Range& range, const Input& gated, float* up);
  void dense_gate_up(const Layer& layer, int index, int item);
  void products(const FeedForward& ffn, const Input& input, const Range& range, const Input& gated, float* up);
  void gate(const FeedForward& ffn, const Range& range, const Input& gated, const float* up);
  void post_norm(int m, const float* weight);

  // experts.cpp
  struct ExpertItem {
    int expert;
    Range range;
  };
  struct Stage {  // phases [begin, end), then the experts of a layer; -1: none, the step is done
    int begin, end, layer;
  };
  void plan_experts(int layer, int tokens, int token_parts);
  void reserve_experts(size_t tokens);
  Status advance(std::string& error);
  void execute();
  void order_pairs(int layer);
  void add_experts(const std::vector<int>& experts);
  void route(const Layer& layer, int item);
  void choose(const Layer& layer, int m);
  void combine(const Layer& layer, int m);
  bool expert_codes(const Layer& layer) const;

  const Kernels& kernels_;
  const int thread_count_;
  Model model_;
  CacheArgs cache_{};
  std::unique_ptr<Pool> pool_;

  const BatchArgs* batch_ = nullptr;
  float* out_ = nullptr;
  std::vector<Phase> planned_, phases_;  // of the step, and of the present run of the pool
  std::vector<Stage> stages_;
  size_t stage_ = 0;
  int layer_ = 0;  // whose experts are computed
  bool waiting_ = false;
  int undone_ = 0;  // experts of the layer that are not computed yet
  std::vector<FeedForward> given_;
  std::vector<int> first_pair_;   // [experts + 1]: the pairs of an expert in `pairs_`
  std::vector<int> pairs_;        // sorted by expert: token * used + choice
  std::vector<int> place_;        // of a pair in `pairs_`
  std::vector<char> computed_;    // [experts]
  std::vector<int32_t> chosen_;   // [tokens, used]
  std::vector<float> weights_;    // [tokens, used]
  std::vector<ExpertItem> gate_items_, down_items_;
  std::vector<int> items_, positions_, segment_of_, first_token_;
  std::vector<Queries> queries_;
  Cut cut_q_{}, cut_k_{}, cut_output_{}, cut_ffn_{}, cut_shared_{}, cut_down_{}, cut_head_{};
  Buffer<float> hidden_, q_, k_, v_, up_, projected_, cosines_, sines_, scores_;
  size_t scores_stride_ = 0;
  Buffer<float> shared_, scores_of_experts_, expert_up_, results_;
  Input normed_, attended_, gated_, final_, routed_, routed_gated_;
  Lora lora_;
};

}  // namespace headrace
