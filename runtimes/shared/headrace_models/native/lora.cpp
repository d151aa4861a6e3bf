#include "lora.h"

#include <algorithm>

namespace headrace {
namespace {

constexpr int kMaxAdapters = 256, kMaxRank = 1024;
constexpr int kTokensPerRun = 32;  // so that all threads have work when a prompt has an adapter
constexpr int kOfInput[kAdaptedCount] = {0, 1, 2, 0, 0, 1, 0};  // a matrix's number among those with its input

}  // namespace

std::string Lora::set(int index, const LoraArgs* args, const Model& model) {
  if (index < 1 || index > kMaxAdapters) return "adapter index " + std::to_string(index);
  std::vector<Pair> pairs;
  for (size_t layer = 0; args && layer < model.layers.size(); ++layer) {
    const Layer& of = model.layers[layer];
    const Matrix* matrices[kAdaptedCount] = {&of.q, &of.k, &of.v, &of.output, &of.ffn.gate, &of.ffn.up, &of.ffn.down};
    for (const Matrix* matrix : matrices) {
      const LoraArgs& each = args[pairs.size()];
      if (each.rank < 0 || each.rank > kMaxRank) return "an adapter of rank " + std::to_string(each.rank);
      const uint32_t rank = each.rank;
      pairs.push_back({{kF32, rank, matrix->cols, each.a}, {kF32, matrix->rows, rank, each.b}});
      stride_ = std::max(stride_, (size_t(rank) + 31) / 32 * 32);
    }
  }
  if (adapters_.size() <= size_t(index)) adapters_.resize(index + 1);
  adapters_[index] = std::move(pairs);
  return "";
}

bool Lora::has(int index) const {
  return index == 0 || (index > 0 && size_t(index) < adapters_.size() && !adapters_[index].empty());
}

void Lora::plan(const BatchArgs& batch) {
  runs_.clear();
  int m = 0;
  for (int s = 0; s < batch.segment_count; ++s) {
    const SegmentArgs& segment = batch.segments[s];
    for (const int end = m + segment.count; m < end;) {
      const bool same = segment.adapter && !runs_.empty() && runs_.back().adapter == segment.adapter &&
                        runs_.back().m_end == m && m - runs_.back().m < kTokensPerRun;
      if (same) {
        runs_.back().m_end = ++m;
      } else {
        if (segment.adapter) runs_.push_back({segment.adapter, m, m + 1});
        ++m;
      }
    }
  }
  if (runs_.empty()) return;
  for (std::vector<float>& each : shrunk_)
    if (each.size() < batch.token_count * stride_) each.resize(batch.token_count * stride_);
}

void Lora::shrink(const Kernels& kernels, int layer, int first, int count, int run, const Activations& input) {
  const Run& r = runs_[run];
  for (int matrix = first; matrix < first + count; ++matrix) {
    const Matrix& a = pair(r.adapter, layer, matrix).a;
    kernels.matmul(a, 0, tiles_of(a.rows), input, r.m, r.m_end, shrunk_[kOfInput[matrix]].data(), stride_, false);
  }
}

void Lora::expand(const Kernels& kernels, int layer, int matrix, int tile, int tile_end, int m, int m_end, float* out,
                  size_t stride) const {
  Activations input{};
  input.values = shrunk_[kOfInput[matrix]].data();
  input.stride = stride_;
  for (const Run& r : runs_) {
    const Matrix& b = pair(r.adapter, layer, matrix).b;
    const int begin = std::max(m, r.m), end = std::min(m_end, r.m_end);
    if (b.cols && begin < end) kernels.matmul(b, tile, tile_end, input, begin, end, out, stride, true);
  }
}

}  // namespace headrace
