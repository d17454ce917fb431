#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <tuple>
#include <vector>

#include "mlx/primitives.h"

/// Launching the kernels of src/cuda through MLX's public interface.
///
/// `mlx::core::fast::cuda_kernel` builds and hashes a kernel's whole source at every call. The
/// primitive that it makes does not depend on the arrays it was made for, so it is made once per
/// kind of call and evaluated again for later ones: it allocates outputs, compiles at first use and
/// launches.
namespace zmlx::fast {

namespace mx = mlx::core;

/// One kernel and how it is launched.
struct CudaKernel {
  std::string file;    ///< in src/cuda
  std::string config;  ///< text that goes between the file and the kernel: its constants
  std::string body;    ///< the kernel's body, which calls what the file defines
  std::vector<std::string> inputs, outputs;  ///< names of the kernel's parameters
  std::tuple<int, int, int> blocks;
  int threads;
  int blocks_per_sm;  ///< that must fit into the registers
  int shared_memory;  ///< bytes
  bool copy_strided;  ///< whether inputs that are not contiguous are copied
};

/// What tells calls apart that need a different kernel or launch.
using CudaKey = std::array<int64_t, 32>;

/// The primitive for a key, made by `describe` at its first use.
std::shared_ptr<mx::Primitive> cuda_primitive(const CudaKey& key, const mx::Stream& stream,
                                              const std::vector<mx::array>& inputs,
                                              const std::vector<mx::array>& outputs,
                                              const std::function<CudaKernel()>& describe);

/// The text that a kernel is compiled from, all but its parameter list.
std::string cuda_kernel_text(const CudaKernel& kernel);

}  // namespace zmlx::fast
