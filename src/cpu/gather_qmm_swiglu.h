#pragma once

#include "cpu/expert_groups.h"
#include "cpu/quantized.h"

namespace zmlx::cpu {

enum class Activation : uint8_t { swiglu, geglu, swiglu_clamped };

struct GatherQmmSwigluArgs {
  Experts gate, up;  ///< of one format and shape
  Activations x;
  const uint32_t* experts;  ///< of each pair
  size_t pairs;
  Activation activation;
  float alpha, limit;
  void* out;  ///< (pairs, N)
  Scalar out_type;
};

/// out[p] = activation(gate[experts[p]] . x[p], up[experts[p]] . x[p]); NaN for experts that do not
/// exist.
void gather_qmm_swiglu(const GatherQmmSwigluArgs& args, Scratch& scratch);

}  // namespace zmlx::cpu
