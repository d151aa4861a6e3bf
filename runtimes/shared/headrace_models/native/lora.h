// LoRA adapters: y += B (A x) in float32 for the rows of segments that name one (Hu et al., "LoRA", section 4.1; the
// scale is part of B). Rows of several adapters are computed in one batch: consecutive rows of one adapter are a run, a
// phase of its own computes A x of all runs, and the item that computes a piece of y adds B (A x) to it.
//
// Rows without an adapter are not touched. The sums are those of the float32 kernels, so rows with one are the same
// whatever else the batch has.
#pragma once
#include <string>
#include <vector>

#include "kernels.h"
#include "model.h"

namespace headrace {

// The matrices of a layer that an adapter changes, in the order of LoraArgs.
enum Adapted { kAdaptedQ, kAdaptedK, kAdaptedV, kAdaptedOutput, kAdaptedGate, kAdaptedUp, kAdaptedDown, kAdaptedCount };

class Lora {
 public:
  // Set adapter `index` (from 1) to `args` [layers * kAdaptedCount], whose memory stays the caller's; null: remove it.
  // Returns an empty text, or what is wrong.
  std::string set(int index, const LoraArgs* args, const Model& model);
  bool has(int index) const;

  // Find the runs of a batch.
  void plan(const BatchArgs& batch);
  int runs() const { return int(runs_.size()); }

  // Compute A x of a run for `count` matrices from `first`, which have the same input.
  void shrink(const Kernels& kernels, int layer, int first, int count, int run, const Activations& input);
  // Add B (A x) to rows of tiles [tile, tile_end) of tokens [m, m_end).
  void expand(const Kernels& kernels, int layer, int matrix, int tile, int tile_end, int m, int m_end, float* out,
              size_t stride) const;

 private:
  struct Pair {
    Matrix a, b;  // of rank 0: the adapter does not change this matrix
  };
  struct Run {
    int adapter, m, m_end;
  };
  const Pair& pair(int adapter, int layer, int matrix) const {
    return adapters_[adapter][size_t(layer) * kAdaptedCount + matrix];
  }

  std::vector<std::vector<Pair>> adapters_;  // by index; empty: none
  std::vector<Run> runs_;
  std::vector<float> shrunk_[3];  // of up to three matrices with one input: [tokens, stride_]
  size_t stride_ = 0;
};

}  // namespace headrace
