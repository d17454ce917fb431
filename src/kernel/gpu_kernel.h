#pragma once

#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "fast/cuda_kernel.h"
#include "fast/metal_kernel.h"
#include "kernel/elementwise_kernel.h"
#include "kernel/emit.h"
#include "kernel/row_kernel.h"
#include "mlx/array.h"

/// Which kernel a formula becomes for given arrays on a GPU, and how it is launched. No device is
/// needed, so that tests can ask for it.
namespace zmlx::kernel {

struct FormulaLaunch {
  std::vector<mx::array> inputs;              ///< as the kernel takes them
  std::function<KernelText(bool cuda)> text;  ///< called if the kernel is new
  std::vector<std::pair<std::string, int64_t>> numbers;
  int threads;
  int64_t groups;
  std::vector<int64_t> key;  ///< what the text depends on
};

/// The kernel must outlive what is returned.
/// @param inputs  evaluated, of the result's shape and of types that kernels read.
FormulaLaunch launch_of(const ElementwiseKernel& kernel, const std::vector<mx::array>& inputs,
                        const std::vector<mx::Dtype>& outputs, bool cuda);
FormulaLaunch launch_of(const RowKernel& kernel, const std::vector<mx::array>& inputs,
                        const std::vector<mx::Dtype>& outputs, bool cuda);

fast::CudaKernel cuda_kernel_of(const FormulaLaunch& launch);

/// Takes, behind the inputs, an array of the numbers.
fast::MetalKernel metal_kernel_of(const FormulaLaunch& launch);
std::vector<int> metal_numbers(const FormulaLaunch& launch);

/// A launch with the types of its results, for people and tests.
struct ArrayLaunch {
  FormulaLaunch launch;
  std::vector<mx::Dtype> outputs;
};
MetalLaunch described(const ArrayLaunch& launch);
/// The whole text.
std::string cuda_text(const ArrayLaunch& launch);

}  // namespace zmlx::kernel
