#pragma once

#include "cpu/expert_groups.h"
#include "cpu/quantized.h"

namespace zmlx::cpu {

struct QuantizedMatmulArgs {
  Experts matrix;  ///< of one expert
  Activations x;
  size_t rows;
  void* out;  ///< (rows, N)
  Scalar out_type;
};

/// out[m] = matrix . x[m].
void quantized_matmul(const QuantizedMatmulArgs& args, Scratch& scratch);

}  // namespace zmlx::cpu
