#pragma once

#include <functional>
#include <string>
#include <tuple>
#include <vector>

#include "fast/launch_key.h"
#include "mlx/array.h"
#include "mlx/stream.h"

/// Launching the kernels of src/metal on MLX's stream.
///
/// `mlx::core::fast::metal_kernel` builds a kernel's source at every call. Here a kind of call is
/// described once: the primitive that MLX makes for it holds source, grid and threadgroup but no
/// arrays, so it is kept and evaluates all later calls of the same key.
namespace zmlx::fast {

/// One kernel and how it is launched.
struct MetalKernel {
  std::string name;    ///< MLX puts it into the function's name
  std::string file;    ///< in src/metal
  std::string config;  ///< text that goes between the file and the kernel: its constants
  /// The kernel's body, which calls what the file defines. It names the positions that it needs as
  /// Metal's attributes do, say `thread_index_in_simdgroup`: MLX makes parameters of those it
  /// finds.
  std::string body;
  std::vector<std::string> inputs, outputs;  ///< names of the kernel's parameters
  std::tuple<int, int, int> threadgroups;    ///< of the grid
  int threads;                               ///< of a threadgroup
  bool copy_strided;                         ///< whether inputs that are not contiguous are copied
};

/// Allocates the outputs and launches the kernel of a key, which `describe` makes at its first use.
/// For `Primitive::eval_gpu` on a wheel with Metal.
/// @throws std::runtime_error if the kernel does not compile.
void launch_metal(const LaunchKey& key, const mx::Stream& stream,
                  const std::vector<mx::array>& inputs, std::vector<mx::array>& outputs,
                  const std::function<MetalKernel()>& describe);

/// The text that MLX compiles for a kernel with parameters of these types, but for what it puts
/// before every kernel (`utils.h` of its own kernels).
std::string metal_kernel_text(const MetalKernel& kernel, const std::vector<mx::Dtype>& inputs,
                              const std::vector<mx::Dtype>& outputs);

/// The kernel function's name in that text.
std::string metal_kernel_name(const MetalKernel& kernel, const std::vector<mx::Dtype>& inputs,
                              const std::vector<mx::Dtype>& outputs);

}  // namespace zmlx::fast
