// Copyright © 2026 Apple Inc.

#pragma once

#include <vector>

#include "mlx/backend/cpu/experts.h"

namespace mlx::core::cpu {

// The rows of x that one expert multiplies, as float32 in the order in which
// weights are unpacked.
struct PreparedRows {
  PreparedRows(
      const Activations& x,
      const Experts& experts,
      const uint32_t* pairs,
      size_t count);

  size_t rows, stride;
  std::vector<float> values;
  std::vector<float> sums; // of the values that share a scale in a lane
  bool finite = true;
};

// y[t * N + n] = x[t] . w[expert][n] + bias[expert][n]
void expert_product(
    const Experts& experts,
    uint32_t expert,
    const PreparedRows& x,
    float* y);

} // namespace mlx::core::cpu
