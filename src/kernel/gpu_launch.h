#pragma once

namespace zmlx::kernel {

/// What `Kernel::tune` chooses; 0 leaves it to the library.
struct GpuLaunch {
  int threads = 0;  ///< of a group, of a row in row kernels: a power of two from 32 to 1024
  int vectors = 0;  ///< that a thread of an elementwise kernel loads at once
};

}  // namespace zmlx::kernel
