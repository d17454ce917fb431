#pragma once

#include "cpu/expert_groups.h"
#include "cpu/quantized.h"

namespace zmlx::cpu {

struct GatherQmmCombineArgs {
  Experts down;
  Activations x;
  const uint32_t* experts;  ///< of each pair; pair p belongs to token p / top_k
  const float* weights;     ///< of each pair
  size_t tokens, top_k;
  void* out;  ///< (tokens, N)
  Scalar out_type;
};

/// out[m] = sum over the token's pairs p: weights[p] * (down[experts[p]] . x[p] + bias); NaN if an
/// expert does not exist. Sums are float32, by rising expert.
void gather_qmm_combine(const GatherQmmCombineArgs& args, Scratch& scratch);

}  // namespace zmlx::cpu
