// The work of a step's items; `plan.cpp` has their order.
#include "step.h"

#include <algorithm>
#include <cmath>
#include <cstring>

namespace headrace {

Status Decoder::step(const BatchArgs& batch, float* out, std::string& error) {
  error = check(batch);
  if (!error.empty()) return kFailed;
  batch_ = &batch;
  out_ = out;
  waiting_ = false;
  reserve(batch);
  plan(batch);
  return advance(error);
}

void Decoder::execute() {
  items_.clear();
  for (const Phase& each : phases_) items_.push_back(each.items);
  if (!items_.empty()) pool_->run(items_, run_item, this);
  phases_.clear();
}

void Decoder::run_item(void* self, int phase, int item, int thread) {
  Decoder& decoder = *static_cast<Decoder*>(self);
  const Phase& each = decoder.phases_[phase];
  decoder.run(each, each.items - 1 - item, thread);  // ascending, as memory is read ahead
}

void Decoder::run(const Phase& phase, int item, int thread) {
  const Config& c = model_.config;
  const Layer& layer = model_.layers[phase.layer];
  float* hidden = hidden_.get() + size_t(item) * c.width;
  float* projected = c.post_norms ? projected_.get() : hidden_.get();
  switch (phase.work) {
    case Work::kEmbed:
      return embed(item);
    case Work::kAttentionNorm: {
      bool codes = quantised(layer.q.kind) || quantised(layer.k.kind) || quantised(layer.v.kind);
      return normed(item, hidden, layer.attention_norm, normed_, codes);
    }
    case Work::kQkv:
      return qkv(layer, phase.layer, item);
    case Work::kAttend:
      return attend(phase.layer, item, thread);
    case Work::kQuantiseAttended:
      return kernels_.quantise(attended_.row(item), c.heads * c.head_dim, attended_.quantised_row(item));
    case Work::kOutput:
      return adapt(phase.layer, kAdaptedOutput,
                   product(layer.output, cut_output_, item, attended_, projected, c.width, !c.post_norms), projected,
                   c.width);
    case Work::kPostAttention:
      return post_norm(item, layer.post_attention_norm);
    case Work::kFfnNorm:
      return normed(item, hidden, layer.ffn_norm, normed_, expert_codes(layer) || quantised(layer.ffn.gate.kind) || quantised(layer.ffn.up.kind));
    case Work::kGateUp:
      return dense_gate_up(layer, phase.layer, item);
    case Work::kDown:
      return adapt(phase.layer, kAdaptedDown,
                   product(layer.ffn.down, cut_down_, item, gated_, projected, c.width, !c.post_norms), projected, c.width);
    case Work::kSharedGateUp:
      return gate_up(layer.ffn, normed_, range(layer.ffn.gate, cut_shared_, item), gated_, up_.get());
    case Work::kSharedDown:
      product(layer.ffn.down, cut_down_, item, gated_, shared_.get(), c.width, false);
      return;
    case Work::kRoute:
      return route(layer, item);
    case Work::kDispatch:
      return routed_.copy_row(item, normed_, pairs_[item] / c.experts_used, expert_codes(layer));
    case Work::kExpertGateUp: {
      const ExpertItem& of = gate_items_[item];
      return gate_up(given_[of.expert], routed_, of.range, routed_gated_, expert_up_.get());
    }
    case Work::kExpertDown: {
      const ExpertItem& of = down_items_[item];
      const Range& r = of.range;
      return kernels_.matmul(given_[of.expert].down, r.tile, r.tile_end, routed_gated_.activations(), r.m, r.m_end,
                             results_.get(), c.width, false);
    }
    case Work::kCombine:
      return combine(layer, item);
    case Work::kPostFfn:
      return post_norm(item, layer.post_ffn_norm);
    case Work::kFinalNorm: {
      if (!batch_->outputs)
        return kernels_.rms_norm(hidden, model_.norm, c.norm_epsilon, c.width, out_ + size_t(item) * c.width);
      const float* row = hidden_.get() + size_t(batch_->outputs[item]) * c.width;
      return normed(item, row, model_.norm, final_, quantised(model_.head.kind));
    }
    case Work::kHead:
      product(model_.head, cut_head_, item, final_, out_, c.vocabulary, false);
      return;
    case Work::kShrinkQkv:
      return lora_.shrink(kernels_, phase.layer, kAdaptedQ, 3, item, normed_.activations());
    case Work::kShrinkOutput:
      return lora_.shrink(kernels_, phase.layer, kAdaptedOutput, 1, item, attended_.activations());
    case Work::kShrinkGateUp:
      return lora_.shrink(kernels_, phase.layer, kAdaptedGate, 2, item, normed_.activations());
    case Work::kShrinkDown:
      return lora_.shrink(kernels_, phase.layer, kAdaptedDown, 1, item, gated_.activations());
  }
}

// The embedding, and the rotation of the token's position: for layers without a window, then for those with one.
void Decoder::embed(int m) {
  const Config& c = model_.config;
  kernels_.row(model_.embedding, batch_->tokens[m], c.embedding_scale, hidden_.get() + size_t(m) * c.width);
  const size_t half = c.head_dim / 2, tokens = batch_->token_count;
  for (int windowed = 0; windowed < 2; ++windowed) {
    const float* frequencies = (windowed ? model_.window_frequencies : model_.frequencies).data();
    size_t at = (windowed * tokens + m) * half;
    for (size_t i = 0; i < half; ++i) {
      float angle = float(positions_[m]) * frequencies[i];
      cosines_.get()[at + i] = std::cos(angle);
      sines_.get()[at + i] = std::sin(angle);
    }
  }
}

void Decoder::normed(int m, const float* x, const float* weight, const Input& to, bool quantise) {
  const Config& c = model_.config;
  kernels_.rms_norm(x, weight, c.norm_epsilon, c.width, to.row(m));
  if (quantise) kernels_.quantise(to.row(m), c.width, to.quantised_row(m));
}

Decoder::Range Decoder::product(const Matrix& matrix, const Cut& cut, int item, const Input& input, float* out,
                                size_t stride, bool add) {
  Range r = range(matrix, cut, item);
  kernels_.matmul(matrix, r.tile, r.tile_end, input.activations(), r.m, r.m_end, out, stride, add);
  return r;
}

void Decoder::qkv(const Layer& layer, int index, int item) {
  const Config& c = model_.config;
  const int parts = cut_q_.parts + 2 * cut_k_.parts, token_part = item / parts;
  item %= parts;
  const int part = item < cut_q_.parts ? 0 : item < cut_q_.parts + cut_k_.parts ? 1 : 2;
  const Cut& cut = part ? cut_k_ : cut_q_;
  const Matrix& matrix = part == 0 ? layer.q : part == 1 ? layer.k : layer.v;
  item -= part == 0 ? 0 : cut_q_.parts + (part - 1) * cut_k_.parts;
  float* out = part == 0 ? q_.get() : part == 1 ? k_.get() : v_.get();
  Range r = range(matrix, cut, token_part * cut.parts + item);
  const size_t stride = size_t(part ? c.kv_heads : c.heads) * c.head_dim;
  kernels_.matmul(matrix, r.tile, r.tile_end, normed_.activations(), r.m, r.m_end, out, stride, false);
  adapt(index, Adapted(kAdaptedQ + part), r, out, stride);
  finish_heads(layer, index, part, r);
}

// Bias, norm and rotation of the heads in a range; keys and values go to the cache.
void Decoder::finish_heads(const Layer& layer, int index, int part, const Range& r) {
  const Config& c = model_.config;
  const int heads = part ? c.kv_heads : c.heads, half = c.head_dim / 2;
  const int head_begin = r.tile * kTileRows / c.head_dim;
  const int head_end = std::min(heads, (r.tile_end * kTileRows + c.head_dim - 1) / c.head_dim);
  const float* bias = part == 0 ? layer.q_bias : part == 1 ? layer.k_bias : layer.v_bias;
  const float* norm = part == 0 ? layer.q_norm : layer.k_norm;
  float* rows = part == 0 ? q_.get() : part == 1 ? k_.get() : v_.get();
  const size_t windowed = model_.windows[index] ? batch_->token_count : 0;
  const uint64_t block_bytes = Decoder::block_bytes(c, cache_.block_tokens, cache_.half);
  const bool wide = c.qk_norm && c.wide_qk_norm && part < 2;  // an item then has all heads
  for (int m = r.m; m < r.m_end; ++m) {
    if (wide) {
      float* all = rows + size_t(m) * heads * c.head_dim;
      kernels_.rms_norm(all, norm, c.norm_epsilon, heads * c.head_dim, all);
    }
    const SegmentArgs& segment = batch_->segments[segment_of_[m]];
    const int position = positions_[m];
    for (int head = head_begin; head < head_end; ++head) {
      float* row = rows + (size_t(m) * heads + head) * c.head_dim;
      if (bias) kernels_.add(row, bias + size_t(head) * c.head_dim, c.head_dim);
      if (part < 2) {
        if (norm && !wide) kernels_.rms_norm(row, norm, c.norm_epsilon, c.head_dim, row);
        const size_t at = (windowed + m) * half;
        kernels_.rotate(row, cosines_.get() + at, sines_.get() + at, half);
      }
      if (part == 0) continue;
      const int block = batch_->blocks[segment.first_block + position / cache_.block_tokens];
      uint8_t* to = cache_.memory + (uint64_t(index) * cache_.blocks + block) * block_bytes +
                    block_bytes / c.kv_heads * head;
      kernels_.write_kv(row, part == 2, c.head_dim, cache_.half, to, cache_.block_tokens, position % cache_.block_tokens);
    }
  }
}

void Decoder::attend(int layer, int item, int thread) {
  const Config& c = model_.config;
  const Queries& queries = queries_[item];
  const SegmentArgs& segment = batch_->segments[queries.segment];
  const int group = c.heads / c.kv_heads, token = first_token_[queries.segment];
  const uint64_t block_bytes = Decoder::block_bytes(c, cache_.block_tokens, cache_.half);
  const size_t width = size_t(c.heads) * c.head_dim, offset = size_t(queries.kv_head) * group * c.head_dim;
  AttentionArgs args{};
  args.cache = cache_.memory + uint64_t(layer) * cache_.blocks * block_bytes;
  args.block_bytes = block_bytes;
  args.head_offset = block_bytes / c.kv_heads * queries.kv_head;
  args.blocks = batch_->blocks + segment.first_block;
  args.block_tokens = cache_.block_tokens;
  args.head_dim = c.head_dim;
  args.heads_per_kv = group;
  args.window = model_.windows[layer];
  args.half = cache_.half;
  args.score_factor = c.score_factor;
  args.queries = q_.get() + token * width + offset;
  args.query_stride = width;
  args.out = attended_.row(token) + offset;
  args.out_stride = attended_.stride;
  args.position = segment.start;
  kernels_.attend(args, queries.row, queries.row_end, scores_.get() + thread * scores_stride_);
}

void Decoder::dense_gate_up(const Layer& layer, int index, int item) {
  const FeedForward& ffn = layer.ffn;
  const Range r = range(ffn.gate, cut_ffn_, item);
  products(ffn, normed_, r, gated_, up_.get());
  adapt(index, kAdaptedGate, r, gated_.values.get(), gated_.stride);
  adapt(index, kAdaptedUp, r, up_.get(), ffn.up.rows);
  gate(ffn, r, gated_, up_.get());
}

void Decoder::gate_up(const FeedForward& ffn, const Input& input, const Range& r, const Input& gated, float* up) {
  products(ffn, input, r, gated, up);
  gate(ffn, r, gated, up);
}

void Decoder::products(const FeedForward& ffn, const Input& input, const Range& r, const Input& gated, float* up) {
  const Activations x = input.activations();
  kernels_.matmul(ffn.gate, r.tile, r.tile_end, x, r.m, r.m_end, gated.values.get(), gated.stride, false);
  kernels_.matmul(ffn.up, r.tile, r.tile_end, x, r.m, r.m_end, up, ffn.up.rows, false);
}

void Decoder::gate(const FeedForward& ffn, const Range& r, const Input& gated, const float* up) {
  const int width = ffn.up.rows, col = r.tile * kTileRows, n = std::min(r.tile_end * kTileRows, width) - col;
  for (int m = r.m; m < r.m_end; ++m) {
    kernels_.gate(gated.row(m) + col, up + size_t(m) * width + col, n, model_.config.gelu);
    if (quantised(ffn.down.kind)) kernels_.quantise(gated.row(m) + col, n, gated.quantised_row(m, col));
  }
}

void Decoder::post_norm(int m, const float* weight) {
  const Config& c = model_.config;
  float* row = projected_.get() + size_t(m) * c.width;
  kernels_.rms_norm(row, weight, c.norm_epsilon, c.width, row);
  kernels_.add(hidden_.get() + size_t(m) * c.width, row, c.width);
}

}  // namespace headrace
