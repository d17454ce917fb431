#pragma once

#include "mlx/stream.h"

namespace zmlx::fast {

namespace mx = mlx::core;

/// Whose kernels a stream runs: MLX has Metal or CUDA in one wheel, never both.
enum class Backend { cpu, cuda, metal };

/// A GPU of a wheel without either is taken for a CUDA one, whose path says that it is not there.
Backend backend_of(const mx::Stream& s);

/// As `zmlx::Path` names it.
const char* name_of(Backend backend);

}  // namespace zmlx::fast
