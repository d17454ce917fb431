#pragma once

#include <optional>
#include <vector>

#include "mlx/array.h"

namespace zmlx::fast {

namespace mx = mlx::core;

/// Reads a primitive's inputs in the order in which they were packed, optional ones by a flag.
class InputReader {
 public:
  explicit InputReader(const std::vector<mx::array>& inputs) : inputs_(inputs) {}

  const mx::array& next() { return inputs_[position_++]; }
  std::optional<mx::array> next_if(bool present) {
    return present ? std::optional(next()) : std::nullopt;
  }
  /// Like `next_if`, without sharing ownership: null if absent.
  const mx::array* pointer_if(bool present) { return present ? &next() : nullptr; }

 private:
  const std::vector<mx::array>& inputs_;
  size_t position_ = 0;
};

}  // namespace zmlx::fast
