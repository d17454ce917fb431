#include "kernel/strided.h"

#include <algorithm>

namespace zmlx::kernel {

namespace {

const void* element(const StridedArray& array, int64_t offset) {
  return static_cast<const uint8_t*>(array.data) +
         offset * static_cast<int64_t>(size_of(array.storage));
}

void read_run(const StridedArray& array, int64_t offset, int64_t stride, size_t count,
              uint32_t* block) {
  const void* from = element(array, offset);
  if (stride == 1) {
    load_block(array.storage, array.type, from, count, block);
  } else if (stride == 0) {
    uint32_t unit[kBlockUnit];
    load_block(array.storage, array.type, from, 1, unit);
    std::fill_n(block, count, unit[0]);
    std::fill_n(block + count, (kBlockUnit - count % kBlockUnit) % kBlockUnit, 0u);
  } else {
    load_strided(array.storage, array.type, from, stride, count, block);
  }
}

}  // namespace

void collapse_axes(std::vector<int64_t>& shape, std::vector<StridedArray>& arrays) {
  std::vector<size_t> kept;
  std::vector<int64_t> lengths;
  for (size_t axis = 0; axis < shape.size(); ++axis) {
    if (shape[axis] == 1) continue;
    const bool joins =
        !kept.empty() && std::all_of(arrays.begin(), arrays.end(), [&](const StridedArray& a) {
          return a.strides[kept.back()] == a.strides[axis] * shape[axis];
        });
    if (joins) {
      kept.back() = axis;
      lengths.back() *= shape[axis];
    } else {
      kept.push_back(axis);
      lengths.push_back(shape[axis]);
    }
  }
  for (auto& array : arrays) {
    std::vector<int64_t> strides;
    for (size_t axis : kept) strides.push_back(array.strides[axis]);
    if (strides.empty()) strides.push_back(1);
    array.strides = std::move(strides);
  }
  if (lengths.empty()) lengths.push_back(1);
  shape = std::move(lengths);
}

bool is_contiguous(const StridedArray& array) {
  return array.strides.size() == 1 && array.strides[0] == 1;
}

void read_block(const StridedArray& array, const std::vector<int64_t>& shape, size_t start,
                size_t count, uint32_t* block) {
  const size_t axes = shape.size();
  if (axes == 1) {
    return read_run(array, static_cast<int64_t>(start) * array.strides[0], array.strides[0], count,
                    block);
  }
  // The index of the element at hand, and its offset.
  std::vector<int64_t> index(axes);
  int64_t offset = 0;
  auto rest = static_cast<int64_t>(start);
  for (size_t axis = axes; axis-- > 0;) {
    index[axis] = rest % shape[axis];
    rest /= shape[axis];
    offset += index[axis] * array.strides[axis];
  }
  const size_t last = axes - 1;
  while (count > 0) {
    const auto run = std::min<size_t>(count, shape[last] - index[last]);
    read_run(array, offset, array.strides[last], run, block);
    block += run;
    count -= run;
    index[last] += static_cast<int64_t>(run);
    offset += static_cast<int64_t>(run) * array.strides[last];
    for (size_t axis = last; axis > 0 && index[axis] == shape[axis]; --axis) {
      offset += array.strides[axis - 1] - shape[axis] * array.strides[axis];
      index[axis] = 0;
      ++index[axis - 1];
    }
  }
}

}  // namespace zmlx::kernel
