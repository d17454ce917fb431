#pragma once

#include <cstddef>
#include <cstdint>

#include "kernel/program.h"

/// Instructions of the block evaluator: each one loop over a block, compiled for every instruction
/// set.
namespace zmlx::kernel {

/// Every block is a multiple of this many elements, the lanes of the widest vectors.
constexpr size_t kBlockUnit = 16;

struct BlockCall {
  const void* args[3];
  /// 1, or 0 for a uniform, which is kBlockUnit equal elements.
  uint8_t steps[3];
  void* out;
  size_t count;  ///< of elements, a multiple of kBlockUnit
};
using BlockKernel = void (*)(const BlockCall&);

/// The table for the instruction set in use, by KernelIndex.
const BlockKernel* block_kernels();

/// What arrays hold; blocks hold 32 bits an element.
enum class Storage : uint8_t { f32, f16, bf16, i32, u32 };
constexpr size_t size_of(Storage storage) {
  return storage == Storage::f16 || storage == Storage::bf16 ? 2 : 4;
}

/// `count` elements from memory to a block of the type (float32 from any storage; integers from
/// their own). Reads nothing beyond; the block is zero up to the next multiple of kBlockUnit.
void load_block(Storage storage, Type type, const void* from, size_t count, void* block);
/// The same with `stride` elements between neighbours.
void load_strided(Storage storage, Type type, const void* from, int64_t stride, size_t count,
                  void* block);

/// `count` elements of a block to memory, rounded to nearest even. `stream` writes past the caches,
/// where memory is aligned for it.
void store_block(Storage storage, const void* block, size_t count, void* to, bool stream);

/// Reduces blocks to one number by an associative operation (see Pass::op), in kPartials partial
/// results: `begin_reduction`, `reduce_block` for each block, `end_reduction`.
constexpr size_t kPartials = 64;
void begin_reduction(Op op, Type type, void* partials);
void reduce_block(Op op, Type type, const void* block, size_t count, void* partials);
/// @return the bits of the result.
uint32_t end_reduction(Op op, Type type, const void* partials);

/// Orders streamed stores before later ones.
void flush_streams();

/// A uniform's kBlockUnit elements.
void fill_unit(uint32_t bits, void* unit);

}  // namespace zmlx::kernel
