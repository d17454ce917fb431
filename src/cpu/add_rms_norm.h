#pragma once

#include <cstddef>

#include "cpu/quantized.h"

namespace zmlx::cpu {

struct AddRmsNormArgs {
  const void* x;
  const void* residual;  ///< null: plain rms_norm
  const void* weight;    ///< (D), null if absent
  Scalar type;           ///< of x, residual and sum
  Scalar weight_type, normed_type;
  size_t rows, D;  ///< x, residual and the outputs are (rows, D)
  float eps;
  void* sum;  ///< null without a residual
  void* normed;
};

/// sum = x + residual; normed = sum / sqrt(mean(sum^2) + eps) * weight, row by row.
void add_rms_norm(const AddRmsNormArgs& args);

}  // namespace zmlx::cpu
