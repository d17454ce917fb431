#pragma once

namespace zmlx::kernel {

/// What `Kernel::tune` chooses; 0 leaves it to the library.
struct GpuLaunch {
  int threads = 0;  ///< of a group, of a row in row kernels: a power of two from 32 to 1024
  /// That a thread of an elementwise kernel loads at once; in a row kernel with 32 threads a row,
  /// rows of a group.
  int vectors = 0;
};

}  // namespace zmlx::kernel
