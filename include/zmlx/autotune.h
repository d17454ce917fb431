#pragma once

#include <functional>
#include <string>
#include <vector>

#include "zmlx/api.h"

/// Choosing by measurement, and remembering the choice.
namespace zmlx {

struct AutotuneOptions {
  /// What the choice is remembered under, with the machine and this library's version; empty: not
  /// at all. Name what is tuned and the class of its arguments' shapes and types.
  std::string key;
  /// How much better than the first a candidate must be to be chosen: noise chooses nothing.
  double margin = 0.02;
  int max_rounds = 15;
  double max_seconds = 1.0;  ///< for all candidates together, after a first call of each
};

struct AutotuneResult {
  size_t best;                  ///< number of the candidate
  bool remembered;              ///< whether it was measured before, now or by another process
  std::vector<double> seconds;  ///< the median of each; empty if remembered
};

/// Times `run(0)` to `run(candidates - 1)`, taking turns, and compares medians. Candidates that are
/// clearly slower drop out early.
/// @throws std::invalid_argument if there are no candidates; whatever `run` throws.
ZMLX_API AutotuneResult autotune(size_t candidates, const std::function<void(size_t)>& run,
                                 const AutotuneOptions& options = {});

/// Where choices are kept: ZMLX_CACHE_DIR, or `zmlx` in the user's cache directory; a file each.
/// Processes write whole files in one step, so none is ever seen half written, and a file that does
/// not hold what it should is ignored and written anew.
ZMLX_API std::string autotune_cache_directory();
/// Forgets all choices, on disk too.
ZMLX_API void clear_autotune_cache();

}  // namespace zmlx
