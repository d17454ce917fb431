#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "mlx/array.h"
#include "zmlx/api.h"

/// What the library was built with, and how its CPU kernels run.
namespace zmlx {

struct BuildInfo {
  std::string version;      ///< of this library
  std::string git_commit;   ///< empty if it was not built from a checkout
  std::string compiler;     ///< name and version
  std::string build_type;   ///< CMake's
  std::string mlx_version;  ///< of the MLX it was built against
  std::string highway;      ///< version of Highway
};
ZMLX_API BuildInfo build_info();

/// The instruction set that the CPU kernels use, by Highway's name: "AVX3" (AVX-512), "AVX2",
/// "NEON".
ZMLX_API std::string cpu_target();

/// The instruction sets that this build and this machine both have, best first.
ZMLX_API std::vector<std::string> cpu_targets();

/// Makes the CPU kernels use one instruction set of `cpu_targets()`; "" returns to the best one.
/// The environment variable ZMLX_CPU_TARGET does the same at start. Not to be called while kernels
/// run.
/// @throws std::invalid_argument if this build or this machine does not have it.
ZMLX_API void set_cpu_target(const std::string& name);

/// Threads that a CPU kernel may use: OMP_NUM_THREADS, or all cores that the process may run on.
ZMLX_API int num_threads();
/// @throws std::invalid_argument if `threads` is below 1.
ZMLX_API void set_num_threads(int threads);

/// Seconds for each of `repeats` passes of a plain read over a buffer of `bytes` bytes: the roof
/// that kernels are measured against.
ZMLX_API std::vector<double> read_bandwidth(size_t bytes, int threads, int repeats);

/// Seconds for each of `repeats` copies of `bytes` bytes with streaming stores, which skip reading
/// the destination; a copy moves twice `bytes`.
ZMLX_API std::vector<double> copy_bandwidth(size_t bytes, int threads, int repeats);

/// Moves an evaluated array's memory into huge pages of 2 MiB, in place, where the system can:
/// Linux 6.1 or newer. Weights that are read once a token touch a page table entry every 4 KiB
/// otherwise, and those of a large model fit no cache. Takes about as long as copying the array
/// does; nothing about the array changes.
/// @return bytes that lie in huge pages now: the whole ones within the array, or 0.
ZMLX_API size_t use_huge_pages(const mlx::core::array& a);

}  // namespace zmlx
