#pragma once

#include <functional>
#include <initializer_list>
#include <span>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "fast/launch_key.h"
#include "mlx/array.h"
#include "mlx/stream.h"

/// Launching the kernels of src/cuda on MLX's stream.
///
/// `mlx::core::fast::cuda_kernel` builds a kernel's source at every call, hashes it at every launch
/// and compiles it with headers that take seconds. Here a kind of call is described once; later
/// ones look it up by a key of numbers.
namespace zmlx::fast {

namespace mx = mlx::core;

/// One kernel and how it is launched.
struct CudaKernel {
  std::string file;    ///< in src/cuda
  std::string config;  ///< text that goes between the file and the kernel: its constants
  std::string body;    ///< the kernel's body, which calls what the file defines
  std::vector<std::string> inputs, outputs;          ///< names of the kernel's parameters
  std::vector<std::pair<std::string, int>> numbers;  ///< parameters of type int, and their values
  std::tuple<int, int, int> blocks;
  int threads;
  int blocks_per_sm;  ///< that must fit into the registers
  int shared_memory;  ///< bytes
  bool copy_strided;  ///< whether inputs that are not contiguous are copied
};

/// Allocates those outputs that have no memory yet and launches the kernel of a key, which
/// `describe` makes at its first use. For `Primitive::eval_gpu`.
/// @param numbers  values of this call for the kernel's numbers, if they differ from call to call.
/// @throws std::runtime_error if the kernel does not compile.
void launch_cuda(const LaunchKey& key, const mx::Stream& stream, std::span<const mx::array> inputs,
                 std::vector<mx::array>& outputs, const std::function<CudaKernel()>& describe,
                 std::initializer_list<int> numbers = {});

/// The text that a kernel is compiled from, for parameters of the arrays' types. The kernel's name
/// in it is `kCudaKernelName`.
std::string cuda_kernel_text(const CudaKernel& kernel, const std::vector<mx::Dtype>& inputs,
                             const std::vector<mx::Dtype>& outputs);
inline constexpr const char* kCudaKernelName = "zmlx_kernel";

}  // namespace zmlx::fast
