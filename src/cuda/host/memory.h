#pragma once

#include "cuda/host/api.h"

namespace zmlx::cuda {

/// Gives `out` memory on the current GPU.
///
/// MLX's own stream-ordered allocation is not exported, and its exported one gives managed memory,
/// for which it converts buffers of its cache one by one. So these buffers have a pool of their
/// own, beyond MLX's count of memory: as many as were ever in use at once, of the sizes that calls
/// of `max_rows` tokens need. A buffer that the host reads is moved to managed memory by MLX and
/// is given up when it is freed.
///
/// The memory returns to the pool when the last array that uses it goes, which may be before the
/// GPU has used it; like MLX's own it is then only written by work that comes later on the stream.
void allocate(mx::array& out, const mx::Stream& stream);

/// Words of 32 bits on a stream's GPU for what kernels leave there for one another; kept until a
/// kernel needs more. The first `kScratchCounters` are zero at first and zero again after each
/// kernel; `bytes` bytes follow, of which each kernel finds what the one before it left. Kernels
/// that use them have to name the array as one that they write, which puts them in order.
mx::array scratch(const mx::Stream& stream, size_t bytes = 0);
inline constexpr int kScratchCounters = 1024;

}  // namespace zmlx::cuda
