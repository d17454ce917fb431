#include "kernel/gpu_reading.h"

#include <algorithm>
#include <limits>

#include "kernel/arrays.h"

namespace zmlx::kernel {

namespace {

/// Of a launch on CUDA, the size among them.
constexpr size_t kMostParameters = 32;

/// An array of one axis that shares the buffer from `offset` elements on, which may be negative.
mx::array view_of(const mx::array& a, size_t data_size, int64_t offset) {
  mx::array view({1}, a.dtype(), nullptr, {});
  view.copy_shared_buffer(a, {1}, {true, true, true}, data_size, offset);
  return view;
}

bool is_aligned(const mx::array& a) { return a.offset() % 16 == 0; }

bool is_single(const mx::array& a) {
  if (a.size() < 2) return false;
  for (size_t axis = 0; axis < a.ndim(); ++axis) {
    if (a.shape(axis) > 1 && a.strides(axis) != 0) return false;
  }
  return true;
}

/// Whether all places, from the buffer's start on, can be told in 32 bits.
bool is_near(const mx::array& a) {
  if (a.offset() % static_cast<int64_t>(a.itemsize()) != 0) return false;
  int64_t last = a.offset() / static_cast<int64_t>(a.itemsize());
  for (size_t axis = 0; axis < a.ndim(); ++axis) {
    last += std::abs(a.strides(axis)) * (a.shape(axis) - 1);
  }
  return last < std::numeric_limits<int>::max();
}

}  // namespace

GpuReading::GpuReading(const std::vector<mx::array>& inputs, size_t outputs) {
  for (size_t i = 0; i < inputs.size(); ++i) {
    const auto& in = inputs[i];
    const bool single = is_single(in) && is_aligned(in);
    const bool whole = in.flags().row_contiguous && is_aligned(in);
    readings_.push_back(single                  ? Reading::single
                        : whole || !is_near(in) ? Reading::whole
                                                : Reading::gathered);
  }
  collapse(inputs);
  while (parameters(inputs.size() + outputs) > kMostParameters) {
    readings_[gapped_.back().input] = Reading::whole;
    collapse(inputs);
  }
  for (size_t i = 0; i < inputs.size(); ++i) {
    inputs_.push_back(readings_[i] == Reading::single ? view_of(inputs[i], 1, 0) : inputs[i]);
  }
  for (const auto& [i, offset, strides] : gapped_) {
    inputs_[i] = view_of(inputs[i], inputs[i].data_size(), -offset);
  }
}

void GpuReading::collapse(const std::vector<mx::array>& inputs) {
  gapped_.clear();
  shape_.clear();
  std::vector<StridedArray> arrays;
  for (size_t i = 0; i < inputs.size(); ++i) {
    if (readings_[i] != Reading::gathered) continue;
    const auto& in = inputs[i];
    gapped_.push_back({i, in.offset() / static_cast<int64_t>(in.itemsize()), {}});
    arrays.emplace_back().strides = {in.strides().begin(), in.strides().end()};
  }
  if (gapped_.empty()) return;
  shape_.assign(inputs[0].shape().begin(), inputs[0].shape().end());
  collapse_axes(shape_, arrays);
  for (size_t k = 0; k < gapped_.size(); ++k) gapped_[k].strides = arrays[k].strides;
}

int64_t GpuReading::last_axis(bool copies_unaligned) const {
  const bool aligned = std::all_of(inputs_.begin(), inputs_.end(), [](const mx::array& in) {
    return is_aligned(in) || !in.flags().row_contiguous;
  });
  if (!aligned && !copies_unaligned) return 1;
  return shape_.size() > 1 ? shape_.back() : 0;
}

size_t GpuReading::parameters(size_t arrays) const {
  if (gapped_.empty()) return 0;
  return arrays + shape_.size() + gapped_.size() * (shape_.size() + 1);
}

void GpuReading::settle(int width) {
  for (const auto& [i, offset, strides] : gapped_) {
    const bool whole_vectors =
        offset % width == 0 && std::all_of(strides.begin(), strides.end() - 1,
                                           [&](int64_t stride) { return stride % width == 0; });
    if (strides.back() == 0) {
      readings_[i] = Reading::same;
    } else if (strides.back() == 1 && whole_vectors) {
      readings_[i] = Reading::run;
    }
  }
}

std::vector<std::pair<std::string, int64_t>> GpuReading::numbers() const {
  std::vector<std::pair<std::string, int64_t>> numbers;
  for (size_t axis = 1; axis < shape_.size(); ++axis) {
    numbers.emplace_back("n" + std::to_string(axis), shape_[axis]);
  }
  for (const auto& [i, offset, strides] : gapped_) {
    const auto number = std::to_string(i);
    numbers.emplace_back("o" + number, offset);
    for (size_t axis = 0; axis < strides.size(); ++axis) {
      const bool last = axis + 1 == strides.size();
      if (last && readings_[i] != Reading::gathered) break;
      numbers.emplace_back("s" + number + "_" + std::to_string(axis), strides[axis]);
    }
  }
  return numbers;
}

}  // namespace zmlx::kernel
