#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "kernel/emit.h"
#include "mlx/array.h"

/// Elementwise kernels on GPUs read arrays with gaps where they lie. No device is needed.
namespace zmlx::kernel {

namespace mx = mlx::core;

/// How a call's inputs are read.
class GpuReading {
 public:
  /// @param inputs  of one shape.
  /// @param outputs  how many there are: a launch has only so many parameters.
  GpuReading(const std::vector<mx::array>& inputs, size_t outputs);

  /// As the kernel takes them: those with gaps as all of their buffers, others as they are. What is
  /// not `single` and has gaps still is copied by whoever launches.
  const std::vector<mx::array>& inputs() const { return inputs_; }
  /// Before `settle`, all with gaps are `gathered`.
  const std::vector<Reading>& readings() const { return readings_; }
  /// Of the shape that those with gaps are walked in; 0 if there are none.
  int axes() const { return static_cast<int>(shape_.size()); }
  /// What vectors must divide; 0 if they may be of any width.
  /// @param copies_unaligned  whether the launch does so, of arrays without gaps.
  int64_t last_axis(bool copies_unaligned) const;

  /// Finds those of which vectors lie together, or are one element.
  /// @param width  elements of a vector.
  void settle(int width);

  /// Numbers that the kernel takes, as emit_elementwise.cpp names them; after `settle`.
  std::vector<std::pair<std::string, int64_t>> numbers() const;

 private:
  struct Gapped {
    size_t input;
    int64_t offset;  ///< from the buffer's start, in elements
    std::vector<int64_t> strides;
  };
  void collapse(const std::vector<mx::array>& inputs);
  size_t parameters(size_t arrays) const;

  std::vector<mx::array> inputs_;
  std::vector<Reading> readings_;
  std::vector<int64_t> shape_;
  std::vector<Gapped> gapped_;
};

}  // namespace zmlx::kernel
