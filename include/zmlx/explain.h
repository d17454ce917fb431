#pragma once

#include <functional>
#include <string>
#include <vector>

#include "mlx/array.h"
#include "zmlx/api.h"

namespace zmlx {

/// Which path one call of a fused primitive took, and why.
struct Path {
  std::string op;      ///< the primitive's name, "gather_qmm_swiglu"
  std::string path;    ///< "cpu", "cuda", "metal", or "fallback": composed of MLX's own ops
  std::string reason;  ///< why the fallback was taken; empty on a fused path

  bool operator==(const Path&) const = default;
};

/// Runs `f` and returns the paths that the primitives called in it (on this thread) take, in order.
/// Nothing is evaluated: paths are chosen when the graph is built.
ZMLX_API std::vector<Path> explain(const std::function<void()>& f);

namespace detail {

/// Notes a path for `explain`, and prints it on stderr, once per distinct path, where the
/// environment variable ZMLX_VERBOSE is set to 1.
ZMLX_API void note_path(Path path);

/// Starts and ends a recording, for bindings that cannot pass a C++ function.
ZMLX_API void begin_recording();
ZMLX_API std::vector<Path> end_recording();

}  // namespace detail
}  // namespace zmlx
