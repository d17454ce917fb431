#pragma once

#include <cstddef>
#include <cstdint>

#include "kernel/expression.h"

/// Blocks of 32-bit elements from and to memory of several types.
namespace zmlx::kernel {

/// Blocks are padded to a multiple of this many elements, the lanes of the widest vectors.
constexpr size_t kBlockUnit = 16;

/// What arrays hold; blocks hold 32 bits an element.
enum class Storage : uint8_t { f32, f16, bf16, i32, u32 };
constexpr size_t size_of(Storage storage) {
  return storage == Storage::f16 || storage == Storage::bf16 ? 2 : 4;
}

/// How blocks of the type lie in memory.
constexpr Storage block_storage(Type type) {
  return type == Type::float32 ? Storage::f32 : type == Type::int32 ? Storage::i32 : Storage::u32;
}

/// `count` elements from memory to a block of the type (float32 from any storage; integers from
/// their own). Reads nothing beyond; the block is zero up to the next multiple of kBlockUnit.
void load_block(Storage storage, Type type, const void* from, size_t count, void* block);
/// The same with `stride` elements between neighbours.
void load_strided(Storage storage, Type type, const void* from, int64_t stride, size_t count,
                  void* block);

/// `count` elements of a block to memory, rounded to nearest even.
void store_block(Storage storage, const void* block, size_t count, void* to);

}  // namespace zmlx::kernel
