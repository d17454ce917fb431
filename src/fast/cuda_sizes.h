#pragma once

#include "fast/cuda_path.h"

/// What the layouts in src/cuda take of shared memory, which the host works out by itself.
namespace zmlx::fast {

inline int ceil_div(int a, int b) { return (a + b - 1) / b; }
inline int round_up(int a, int b) { return ceil_div(a, b) * b; }

/// Products made row by row; see RowProducts, LaneLayout and FpLayout in src/cuda.
struct RowSizes {
  int unit, rows;  // threads that make a row, and the rows that they make at once
  int steps;       // of the inner dimension
  int codes;       // bytes of a thread, row and step; 0 if not copied to shared memory
  int prepared;    // bytes of a row's scales and biases as products take them
  int staged;      // bytes of a row of x
  int scales;      // bytes of a row's scales (or biases)

  RowSizes(const CudaCall& c, CudaProduct product) {
    const int bits = c.quantization.bits, size = static_cast<int>(mx::size_of(c.type));
    const bool fp = product == CudaProduct::fp;
    const int lane = size == 2 && bits <= 4 ? 16 : 8;
    const int step = 32 * (fp ? (bits == 4 ? 32 : 16) : lane);
    unit = fp ? 32 : 16, rows = fp ? 4 : 2;
    steps = ceil_div(c.K, step);
    codes = fp ? 16 : 2 * lane * bits / 8;
    if (codes % 4 != 0) codes = 0;
    staged = steps * step * (fp ? 4 : size);
    scales = c.K / c.quantization.group_size * (fp ? 1 : size);
    prepared = c.K / c.quantization.group_size * (fp ? 4 : 8);
  }
};

/// Products on tensor cores; see MmaLayout in src/cuda.
struct MmaSizes {
  int stage_k, stages, scales;
  explicit MmaSizes(const CudaCall& c)
      : stage_k(1024 / c.quantization.bits),
        stages(ceil_div(c.K, stage_k)),
        scales(2 * 16 * (c.K / c.quantization.group_size) * 2) {}
};
inline constexpr int kStageBytes = 16 * 128;

}  // namespace zmlx::fast
