#pragma once

#include <vector>

#include "kernel/elementwise_kernel.h"
#include "kernel/row_kernel.h"
#include "mlx/array.h"
#include "mlx/stream.h"

/// Launching formulas on GPUs: on CUDA through fast/cuda_kernel.h, on Metal through
/// fast/metal_kernel.h. For `Primitive::eval_gpu`.
namespace zmlx::kernel {

void run_on_gpu(const ElementwiseKernel& kernel, const mx::Stream& stream,
                const std::vector<mx::array>& inputs, std::vector<mx::array>& outputs);
void run_on_gpu(const RowKernel& kernel, const mx::Stream& stream,
                const std::vector<mx::array>& inputs, std::vector<mx::array>& outputs);

}  // namespace zmlx::kernel
