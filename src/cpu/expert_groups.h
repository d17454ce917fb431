#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <vector>

#include "cpu/block_product.h"

/// Rows of activations sorted by the expert that multiplies them, so that each expert's weights are
/// read once however many rows use it.
namespace zmlx::cpu {

/// The rows of one expert: `order[begin, begin + count)` of the grouping.
struct ExpertGroup {
  uint32_t expert;
  size_t begin, count;
};

struct ExpertGroups {
  std::vector<uint32_t> order;      ///< pairs, by expert, in their own order within one
  std::vector<ExpertGroup> groups;  ///< by rising expert; only experts with pairs, many in several
  std::vector<uint32_t> invalid;    ///< pairs whose expert does not exist
};

/// @param expert_of  the expert of each pair.
ExpertGroups group_by_expert(const uint32_t* expert_of, size_t pairs, size_t num_experts);

/// The activations of a product: one row per pair, anywhere in memory.
struct Activations {
  const uint8_t* data;
  Scalar type;
  const int64_t* offsets;  ///< first element of each pair's row; null if pair p starts at p * K

  const void* row(size_t pair, size_t K) const {
    const int64_t first = offsets ? offsets[pair] : static_cast<int64_t>(pair * K);
    return data + first * static_cast<int64_t>(size_of(type));
  }
};

/// Memory that kernels work in, from the framework's allocator so that its accounting sees it.
class Scratch {
 public:
  virtual ~Scratch() = default;
  /// At least `count` floats, aligned to 64 bytes; valid until the Scratch is destroyed.
  virtual float* floats(size_t count) = 0;
};

/// Outputs that one unit of work computes: 64 rows of weights of 2,048 4-bit columns are 72 KB,
/// long enough that handing out units costs nothing, short enough to even out two threads.
constexpr size_t kBlock = 64;

/// Prepares every group's rows and calls `unit(group, rows, n0, n1)` for every group and block of
/// outputs, in waves: the rows of as many groups at a time as fit a fixed budget of memory.
struct GroupProduct {
  const Experts& experts;  ///< its format and K say how rows are prepared
  const Activations& x;
  const ExpertGroups& grouping;
  Scratch& scratch;
  int matrices = 1;  ///< of the experts' shape that each row is multiplied by

  using Unit =
      std::function<void(const ExpertGroup& group, const PreparedRows& rows, size_t n0, size_t n1)>;
  /// Units in any order, each (group, block) once, on any thread.
  void for_each_unit(size_t block, const Unit& unit) const;
  /// Each block's groups one after the other in order, on one thread.
  void for_each_block(size_t block, const Unit& unit) const;

 private:
  int threads() const;
  Magnitudes magnitudes_of_group(const ExpertGroup& group) const;
  void run(size_t block, bool groups_in_order, const Unit& unit) const;
};

}  // namespace zmlx::cpu
