#pragma once

#include <vector>

#include "fast/metal_kernel.h"
#include "fast/primitives.h"

namespace zmlx::fast {

/// The kernel that evaluates an operation with these inputs on Metal: the very one that
/// `eval_metal` launches. Of the inputs only shapes, types, strides and offsets are looked at, so
/// this works without Metal.
/// @throws std::runtime_error if no kernel takes the call.
MetalKernel metal_kernel_of(const GatherQmmSwiglu::Options& options,
                            const std::vector<mx::array>& inputs);
MetalKernel metal_kernel_of(const GatherQmmCombine::Options& options,
                            const std::vector<mx::array>& inputs);
MetalKernel metal_kernel_of(const AddRmsNorm::Options& options,
                            const std::vector<mx::array>& inputs);
MetalKernel metal_kernel_of(const MoeRoute::Options& options, const std::vector<mx::array>& inputs);

}  // namespace zmlx::fast
