#pragma once

#include "mlx/array.h"

namespace zmlx::fast {

/// What streaming stores and cache lines want; MLX's CPU allocator aligns to 8 bytes only.
inline constexpr size_t kOutputAlignment = 64;

/// Gives an output of the CPU contiguous memory, `beyond` bytes behind an aligned address.
void allocate(mlx::core::array& out, size_t beyond = 0);

}  // namespace zmlx::fast
