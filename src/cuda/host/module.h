#pragma once

#include <string>

namespace zmlx::cuda {

/// The kernel `name` of a source text, compiled for the current GPU.
///
/// Compiled kernels are kept in memory and in a folder of files, so that a process compiles only
/// what none has compiled before: `ZMLX_CACHE_DIR`, else `zmlx` in `XDG_CACHE_HOME` or `~/.cache`;
/// with `ZMLX_CACHE_DIR` empty they are kept in memory alone. A file that cannot be read or written
/// costs a compilation, nothing else.
///
/// @param device  index of the current GPU.
/// @param compute_capability  its own, 90 for 9.0.
/// @param shared_bytes  the most dynamic shared memory that it is launched with.
/// @returns the driver's function.
/// @throws std::runtime_error with the compiler's log.
void* kernel_function(const std::string& source, const std::string& name, int device,
                      int compute_capability, int shared_bytes);

/// `source` as machine code. Needs no GPU.
/// @throws std::runtime_error with the compiler's log.
std::string compile(const std::string& source, int compute_capability);

}  // namespace zmlx::cuda
