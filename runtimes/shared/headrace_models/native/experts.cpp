// The mixture of experts of a layer: gate, order, dispatch, expert, i-order and combine (FSMoE, section 4).
//
// A pair is a token and one of its choices. Pairs are sorted by expert, so that an expert's input is consecutive rows. The
// result of each pair is kept until the layer has all, and a token's results are added in the order of its choices: so
// neither the batch nor the order in which experts are computed changes a bit.
#include <algorithm>
#include <cmath>

#include "step.h"

namespace headrace {
namespace {

constexpr int kTokensPerRoute = 16;

float sigmoid(float x) { return 1.0f / (1.0f + std::exp(-x)); }

}  // namespace

void Decoder::plan_experts(int layer, int tokens, int token_parts) {
  auto phase = [&](Work work, int items) { planned_.push_back({work, layer, items}); };
  if (model_.config.shared_width) {
    phase(Work::kSharedGateUp, cut_shared_.parts * token_parts);
    phase(Work::kSharedDown, cut_down_.parts * token_parts);
  }
  phase(Work::kRoute, ceil_div(tokens, kTokensPerRoute));
  stages_.push_back({stages_.empty() ? 0 : stages_.back().end, int(planned_.size()), layer});
}

void Decoder::reserve_experts(size_t tokens) {
  const Config& c = model_.config;
  const size_t pairs = tokens * c.experts_used;
  chosen_.resize(pairs);
  weights_.resize(pairs);
  pairs_.resize(pairs);
  place_.resize(pairs);
  given_.resize(c.experts);
  scores_of_experts_.reserve(tokens * c.experts);
  if (c.shared_width) shared_.reserve(tokens * c.width);
  expert_up_.reserve(pairs * c.expert_width);
  results_.reserve(pairs * c.width);
  routed_.reserve(pairs, c.width);
  routed_gated_.reserve(pairs, c.expert_width);
}

// Run the stages up to the next layer whose experts the caller has to give.
Status Decoder::advance(std::string& error) {
  for (;;) {
    const Stage stage = stages_[stage_++];
    phases_.insert(phases_.end(), planned_.begin() + stage.begin, planned_.begin() + stage.end);
    execute();
    if (stage.layer < 0) return kDone;
    order_pairs(stage.layer);
    const Layer& layer = model_.layers[stage.layer];
    if (layer.experts.empty()) {
      waiting_ = true;
      return kExpertsNeeded;
    }
    given_ = layer.experts;
    std::vector<int> used;
    for (int e = 0; e < model_.config.experts; ++e)
      if (first_pair_[e] < first_pair_[e + 1]) used.push_back(e);
    add_experts(used);
    phases_.push_back({Work::kCombine, layer_, batch_->token_count});
  }
}

Status Decoder::resume(const ExpertArgs* experts, int count, std::string& error) {
  const Config& c = model_.config;
  std::vector<int> used;
  auto fail = [&](const std::string& why) {
    error = why;
    waiting_ = false;
    return kFailed;
  };
  if (!waiting_) return fail("no step waits for experts");
  for (int i = 0; i < count; ++i) {
    const ExpertArgs& x = experts[i];
    const int e = x.expert;
    if (e < 0 || e >= c.experts || first_pair_[e] == first_pair_[e + 1] || computed_[e])
      return fail("expert " + std::to_string(e) + " is not needed in layer " + std::to_string(layer_));
    for (uint32_t kind : {x.gate_kind, x.up_kind, x.down_kind})
      if (kind >= kVector) return fail("an expert's matrix of kind " + std::to_string(kind));
    if ((quantised(x.gate_kind) || quantised(x.up_kind)) && c.width % 32) return fail("experts without whole groups");
    if (quantised(x.down_kind) && c.expert_width % 32) return fail("experts without whole groups of 32");
    const uint32_t width = c.width, inner = c.expert_width;
    given_[e] = {{x.gate_kind, inner, width, x.gate}, {x.up_kind, inner, width, x.up}, {x.down_kind, width, inner, x.down}};
    computed_[e] = 1;
    used.push_back(e);
  }
  add_experts(used);
  if (undone_) {
    execute();
    return kExpertsNeeded;
  }
  waiting_ = false;
  phases_.push_back({Work::kCombine, layer_, batch_->token_count});
  return advance(error);
}

RoutingArgs Decoder::routing() const {
  return {layer_, waiting_ ? batch_->token_count : 0, chosen_.data(), weights_.data()};
}

std::string Decoder::look_ahead(int index, float* scores) {
  const Config& c = model_.config;
  if (!waiting_) return "no step waits for experts";
  if (index <= layer_ || index >= c.layers || !model_.layers[index].has_experts)
    return "layer " + std::to_string(index) + " is no later layer with experts";
  const Layer& layer = model_.layers[index];
  Input& normed = attended_;  // its content is used up, and a row of it may be too short
  normed.reserve(batch_->token_count, std::max(c.width, c.heads * c.head_dim));
  for (int m = 0; m < batch_->token_count; ++m) {
    kernels_.rms_norm(hidden_.get() + size_t(m) * c.width, layer.ffn_norm, c.norm_epsilon, c.width, normed.row(m));
    kernels_.matmul(layer.router, 0, tiles_of(c.experts), normed.activations(), m, m + 1, scores, c.experts, false);
  }
  return "";
}

void Decoder::order_pairs(int layer) {
  const int experts = model_.config.experts, pairs = int(chosen_.size());
  layer_ = layer;
  first_pair_.assign(experts + 1, 0);
  for (int p = 0; p < pairs; ++p) ++first_pair_[chosen_[p] + 1];
  undone_ = 0;
  for (int e = 0; e < experts; ++e) {
    undone_ += first_pair_[e + 1] > 0;
    first_pair_[e + 1] += first_pair_[e];
  }
  std::vector<int> next(first_pair_.begin(), first_pair_.end() - 1);
  for (int p = 0; p < pairs; ++p) {
    place_[p] = next[chosen_[p]]++;
    pairs_[place_[p]] = p;
  }
  computed_.assign(experts, 0);
  phases_.push_back({Work::kDispatch, layer, pairs});
}

// Add the phases of these experts to the next run.
void Decoder::add_experts(const std::vector<int>& experts) {
  const Config& c = model_.config;
  gate_items_.clear();
  down_items_.clear();
  auto cut = [](std::vector<ExpertItem>& items, int expert, int rows, int begin, int end) {
    const int tiles = tiles_of(rows);
    for (int m = begin; m < end; m += kTokensPerItem)
      for (int tile = 0; tile < tiles; tile += 2)
        items.push_back({expert, {tile, std::min(tile + 2, tiles), m, std::min(m + kTokensPerItem, end)}});
  };
  for (int e : experts) {
    cut(gate_items_, e, c.expert_width, first_pair_[e], first_pair_[e + 1]);
    cut(down_items_, e, c.width, first_pair_[e], first_pair_[e + 1]);
  }
  undone_ -= int(experts.size());
  if (experts.empty()) return;
  phases_.push_back({Work::kExpertGateUp, layer_, int(gate_items_.size())});
  phases_.push_back({Work::kExpertDown, layer_, int(down_items_.size())});
}

void Decoder::route(const Layer& layer, int item) {
  const int begin = item * kTokensPerRoute, end = std::min(begin + kTokensPerRoute, batch_->token_count);
  const int experts = model_.config.experts;
  kernels_.matmul(layer.router, 0, tiles_of(experts), normed_.activations(), begin, end, scores_of_experts_.get(), experts,
                  false);
  for (int m = begin; m < end; ++m) choose(layer, m);
}

void Decoder::choose(const Layer& layer, int m) {
  const Config& c = model_.config;
  float* scores = scores_of_experts_.get() + size_t(m) * c.experts;
  if (c.sigmoid) {
    for (int e = 0; e < c.experts; ++e) scores[e] = sigmoid(scores[e]);
  } else {
    const float most = *std::max_element(scores, scores + c.experts);
    float sum = 0;
    for (int e = 0; e < c.experts; ++e) sum += scores[e] = std::exp(scores[e] - most);
    for (int e = 0; e < c.experts; ++e) scores[e] /= sum;
  }
  int32_t* chosen = chosen_.data() + size_t(m) * c.experts_used;
  float* weights = weights_.data() + size_t(m) * c.experts_used;
  auto ranked = [&](int e) { return scores[e] + (layer.score_bias ? layer.score_bias[e] : 0.0f); };
  float sum = 0;
  for (int k = 0; k < c.experts_used; ++k) {
    int best = -1;
    for (int e = 0; e < c.experts; ++e) {
      const bool taken = std::find(chosen, chosen + k, e) != chosen + k;
      if (!taken && (best < 0 || ranked(e) > ranked(best))) best = e;
    }
    chosen[k] = best;
    sum += weights[k] = scores[best];
  }
  if (c.normalised)
    for (int k = 0; k < c.experts_used; ++k) weights[k] /= c.sigmoid ? sum + 1e-20f : sum;
  for (int k = 0; k < c.experts_used; ++k) weights[k] *= c.expert_scale;
}

void Decoder::combine(const Layer& layer, int m) {
  const Config& c = model_.config;
  float* hidden = hidden_.get() + size_t(m) * c.width;
  const float* shared = c.shared_width ? shared_.get() + size_t(m) * c.width : nullptr;
  float factor = 1;
  if (layer.shared_gate) {
    const float* normed = normed_.row(m);
    float dot = 0;
    for (int i = 0; i < c.width; ++i) dot += normed[i] * layer.shared_gate[i];
    factor = sigmoid(dot);
  }
  for (int i = 0; i < c.width; ++i) {
    float added = 0;
    for (int k = 0; k < c.experts_used; ++k) {
      const int pair = m * c.experts_used + k;
      added += weights_[pair] * results_.get()[size_t(place_[pair]) * c.width + i];
    }
    hidden[i] += shared ? added + factor * shared[i] : added;
  }
}

bool Decoder::expert_codes(const Layer& layer) const {
  if (!layer.has_experts) return false;
  if (layer.experts.empty()) return model_.config.width % 32 == 0;  // the kinds are not known before
  return quantised(layer.experts[0].gate.kind) || quantised(layer.experts[0].up.kind);
}

}  // namespace headrace
