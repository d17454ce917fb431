#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "kernel/block_memory.h"

/// Reading arrays of any strides as one sequence of elements.
namespace zmlx::kernel {

/// An array of the shape that it is read with (strides of 0 where it is broadcast).
struct StridedArray {
  const void* data = nullptr;
  Storage storage = Storage::f32;
  Type type = Type::float32;     ///< of the blocks read from it
  std::vector<int64_t> strides;  ///< in elements
};

/// Drops axes of one element and joins neighbours that all arrays can walk as one. At least one
/// axis is left.
void collapse_axes(std::vector<int64_t>& shape, std::vector<StridedArray>& arrays);

/// Whether the elements lie one after the other; of collapsed arrays.
bool is_contiguous(const StridedArray& array);

/// Elements [start, start + count) in row-major order into a block, padded with zeros up to a
/// multiple of kBlockUnit.
void read_block(const StridedArray& array, const std::vector<int64_t>& shape, size_t start,
                size_t count, uint32_t* block);

}  // namespace zmlx::kernel
