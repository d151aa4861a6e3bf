// What a step computes: validation of the batch, its phases, and how the work of each is cut into items.
#include <algorithm>
#include <numeric>

#include "step.h"

namespace headrace {
void Input::reserve(size_t rows, size_t cols) {
  stride = (cols + 31) / 32 * 32;
  values.reserve(rows * stride);
  codes.reserve(2 * rows * stride);
  scales.reserve(rows * stride / 32);
  sums.reserve(rows * stride / 32);
  offsets.reserve(rows * stride / 32);
  halves.reserve(rows * stride / 16);
}

QuantisedRow Input::quantised_row(size_t m, size_t col) const {
  size_t at = m * stride + col;
  return {codes.get() + 2 * at, scales.get() + at / 32, sums.get() + at / 32, offsets.get() + at / 32,
          halves.get() + at / 16};
}

void Input::copy_row(size_t to, const Input& from, size_t row, bool codes_too) const {
  std::copy_n(from.row(row), stride, this->row(to));
  if (!codes_too) return;
  const QuantisedRow out = quantised_row(to), in = from.quantised_row(row);
  std::copy_n(in.codes, 2 * stride, out.codes);
  std::copy_n(in.scales, stride / 32, out.scales);
  std::copy_n(in.sums, stride / 32, out.sums);
  std::copy_n(in.offsets, stride / 32, out.offsets);
  std::copy_n(in.halves, stride / 16, out.halves);
}

Activations Input::activations() const {
  return {values.get(), codes.get(), scales.get(), sums.get(), offsets.get(), halves.get(), stride};
}

std::string Decoder::open(const Config& config, const uint8_t* packed, uint64_t bytes) {
  std::string error = model_.bind(config, packed, bytes);
  if (error.empty()) pool_ = std::make_unique<Pool>(thread_count_, 17 * config.layers + 8);
  return error;
}

uint64_t Decoder::block_bytes(const Config& c, int block_tokens, bool half) {
  uint64_t keys = uint64_t(ceil_div(block_tokens, 16)) * 16 * c.head_dim;
  uint64_t values = uint64_t(block_tokens) * ceil_div(c.head_dim, 16) * 16;
  return (keys + values) * c.kv_heads * (half ? 2 : 4);
}

std::string Decoder::allocate(const CacheArgs& cache) {
  uint64_t needed = block_bytes(model_.config, cache.block_tokens, cache.half) * cache.blocks * model_.config.layers;
  if (cache.bytes < needed) return "a cache of " + std::to_string(needed) + " bytes is needed";
  cache_ = cache;
  return "";
}

std::string Decoder::check(const BatchArgs& b) const {
  auto text = [](int64_t n) { return std::to_string(n); };
  if (!cache_.memory) return "no cache is allocated";
  if (b.token_count < 1) return "the batch is empty";
  for (int i = 0; i < b.token_count; ++i)
    if (b.tokens[i] < 0 || b.tokens[i] >= model_.config.vocabulary)
      return "token id " + text(b.tokens[i]) + " is not of a vocabulary of " + text(model_.config.vocabulary);
  for (int i = 0; i < b.block_count; ++i)
    if (b.blocks[i] < 0 || b.blocks[i] >= cache_.blocks)
      return "block " + text(b.blocks[i]) + " is not of a cache of " + text(cache_.blocks) + " blocks";
  for (int i = 0; b.outputs && i < b.output_count; ++i)
    if (b.outputs[i] < 0 || b.outputs[i] >= b.token_count)
      return "output " + text(b.outputs[i]) + " is not of a batch of " + text(b.token_count) + " tokens";
  int64_t tokens = 0;
  for (int i = 0; i < b.segment_count; ++i) {
    const SegmentArgs& s = b.segments[i];
    if (s.start < 0 || s.count < 1) return "a segment of " + text(s.count) + " tokens from " + text(s.start);
    if (int64_t(s.start) + s.count > int64_t(s.blocks) * cache_.block_tokens)
      return "a segment ends at position " + text(int64_t(s.start) + s.count) + ", and its " + text(s.blocks) +
             " blocks at " + text(int64_t(s.blocks) * cache_.block_tokens);
    if (!lora_.has(s.adapter)) return "adapter " + text(s.adapter) + " is not loaded";
    tokens += s.count;
  }
  if (tokens != b.token_count) return "segments of " + text(tokens) + " tokens for " + text(b.token_count);
  return "";
}

void Decoder::reserve(const BatchArgs& b) {
  const Config& c = model_.config;
  const size_t m = b.token_count, half = c.head_dim / 2, longest = [&] {
    int most = 0;
    for (int i = 0; i < b.segment_count; ++i) most = std::max(most, b.segments[i].start + b.segments[i].count);
    return size_t(most);
  }();
  hidden_.reserve(m * c.width);
  q_.reserve(m * c.heads * c.head_dim);
  k_.reserve(m * c.kv_heads * c.head_dim);
  v_.reserve(m * c.kv_heads * c.head_dim);
  const size_t ffn_width = std::max(c.ffn_width, c.shared_width);
  up_.reserve(m * ffn_width);
  if (c.post_norms) projected_.reserve(m * c.width);
  cosines_.reserve(2 * m * half);
  sines_.reserve(2 * m * half);
  normed_.reserve(m, c.width);
  attended_.reserve(m, size_t(c.heads) * c.head_dim);
  gated_.reserve(m, ffn_width);
  if (c.experts) reserve_experts(m);
  final_.reserve(b.outputs ? b.output_count : 0, c.width);
  scores_stride_ = 4 * (longest + 64);
  scores_.reserve(scores_stride_ * thread_count_);
}

Decoder::Cut Decoder::cut(const Matrix& matrix, int tiles, int tokens) const {
  return {tiles, ceil_div(tiles_of(matrix.rows), tiles), tokens};
}

Decoder::Range Decoder::range(const Matrix& matrix, const Cut& cut, int item) const {
  int tile = item % cut.parts * cut.tiles, m = item / cut.parts * kTokensPerItem;
  return {tile, std::min(tile + cut.tiles, tiles_of(matrix.rows)), m, std::min(m + kTokensPerItem, cut.tokens)};
}

void Decoder::plan(const BatchArgs& b) {
  const Config& c = model_.config;
  const int m = b.token_count, outputs = b.outputs ? b.output_count : m;
  positions_.resize(m);
  segment_of_.resize(m);
  first_token_.resize(b.segment_count);
  queries_.clear();
  const int group = c.heads / c.kv_heads;
  // Few rows: each is an item, so that all threads have work. Else rows that share keys are computed together.
  const bool few = m * c.heads < 8 * thread_count_;
  for (int s = 0, token = 0; s < b.segment_count; ++s) {
    const SegmentArgs& segment = b.segments[s];
    first_token_[s] = token;
    for (int i = 0; i < segment.count; ++i, ++token) {
      positions_[token] = segment.start + i;
      segment_of_[token] = s;
    }
    const int rows = segment.count * group, step = few ? 1 : group * std::min(segment.count, 16);
    for (int row = 0; row < rows; row += step)
      for (int head = 0; head < c.kv_heads; ++head)
        queries_.push_back({s, head, row, std::min(row + step, rows)});
  }
  const Layer& first = model_.layers[0];
  // Whole heads and whole tiles: the thread that computes them also rotates them.
  const int head_tiles = std::lcm(kTileRows, c.head_dim) / kTileRows;
  const bool wide = c.qk_norm && c.wide_qk_norm;  // the norm needs all heads
  cut_q_ = cut(first.q, wide ? tiles_of(first.q.rows) : head_tiles, m);
  cut_k_ = cut(first.k, wide ? tiles_of(first.k.rows) : head_tiles, m);
  cut_output_ = cut(first.output, 2, m);
  auto cut_rows = [&](int rows) { return cut(Matrix{kF32, uint32_t(rows), 0, nullptr}, 2, m); };
  cut_ffn_ = cut_rows(c.ffn_width);
  cut_shared_ = cut_rows(c.shared_width);
  cut_down_ = cut_rows(c.width);
  cut_head_ = cut(model_.head, 16, outputs);
  const int token_parts = ceil_div(m, kTokensPerItem);
  lora_.plan(b);
  planned_.clear();
  stages_.clear();
  auto phase = [&](Work work, int layer, int items) { if (items) planned_.push_back({work, layer, items}); };
  phase(Work::kEmbed, 0, m);
  for (int i = 0; i < c.layers; ++i) {
    phase(Work::kAttentionNorm, i, m);
    phase(Work::kShrinkQkv, i, lora_.runs());
    phase(Work::kQkv, i, (cut_q_.parts + 2 * cut_k_.parts) * token_parts);
    phase(Work::kAttend, i, int(queries_.size()));
    if (quantised(model_.layers[i].output.kind)) phase(Work::kQuantiseAttended, i, m);
    phase(Work::kShrinkOutput, i, lora_.runs());
    phase(Work::kOutput, i, cut_output_.parts * token_parts);
    if (c.post_norms) phase(Work::kPostAttention, i, m);
    phase(Work::kFfnNorm, i, m);
    if (model_.layers[i].has_experts) {
      plan_experts(i, m, token_parts);
      continue;
    }
    phase(Work::kShrinkGateUp, i, lora_.runs());
    phase(Work::kGateUp, i, cut_ffn_.parts * token_parts);
    phase(Work::kShrinkDown, i, lora_.runs());
    phase(Work::kDown, i, cut_down_.parts * token_parts);
    if (c.post_norms) phase(Work::kPostFfn, i, m);
  }
  if (outputs) phase(Work::kFinalNorm, 0, outputs);
  if (outputs && b.outputs) phase(Work::kHead, 0, cut_head_.parts * ceil_div(outputs, kTokensPerItem));
  stages_.push_back({stages_.empty() ? 0 : stages_.back().end, int(planned_.size()), -1});
  stage_ = 0;
  phases_.clear();
}

}  // namespace headrace
