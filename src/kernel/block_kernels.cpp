#include "kernel/block_kernels.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernel/block_kernels.cpp"
#include "hwy/foreach_target.h"
// Must come after foreach_target.h.
#include "hwy/cache_control.h"
#include "hwy/highway.h"
#include "kernel/block_kernels-inl.h"
#include "kernel/block_memory-inl.h"
#include "kernel/block_reduce-inl.h"

#if HWY_ONCE

#include <algorithm>
#include <bit>
#include <cstring>

#include "kernel/row_formula.h"

namespace zmlx::kernel {

HWY_EXPORT(BlockKernelTable);
HWY_EXPORT(LoadBlock);
HWY_EXPORT(StoreBlock);
HWY_EXPORT(ReduceBlock);
HWY_EXPORT(EndReduction);

const BlockKernel* block_kernels() { return HWY_DYNAMIC_DISPATCH(BlockKernelTable)(); }

void load_block(Storage storage, Type type, const void* from, size_t count, void* block) {
  HWY_DYNAMIC_DISPATCH(LoadBlock)(storage, type, from, count, block);
}

void load_strided(Storage storage, Type type, const void* from, int64_t stride, size_t count,
                  void* block) {
  // Gathered as it is stored, then converted in place of a chunk.
  constexpr size_t kChunk = 256;
  alignas(64) uint8_t gathered[kChunk * 4];
  const size_t size = size_of(storage);
  const auto* source = static_cast<const uint8_t*>(from);
  for (size_t done = 0; done < count; done += kChunk) {
    const size_t n = std::min(kChunk, count - done);
    const auto gather = [&](auto* to) {
      const auto* elements = reinterpret_cast<const std::decay_t<decltype(*to)>*>(source);
      for (size_t i = 0; i < n; ++i) {
        to[i] = elements[static_cast<int64_t>(done + i) * stride];
      }
    };
    if (size == 2) {
      gather(reinterpret_cast<uint16_t*>(gathered));
    } else {
      gather(reinterpret_cast<uint32_t*>(gathered));
    }
    load_block(storage, type, gathered, n, static_cast<uint32_t*>(block) + done);
  }
}

void store_block(Storage storage, const void* block, size_t count, void* to, bool stream) {
  HWY_DYNAMIC_DISPATCH(StoreBlock)(storage, block, count, to, stream);
}

void begin_reduction(Op op, Type type, void* partials) {
  const double identity = identity_of(op, type);
  const uint32_t bits = type == Type::float32
                            ? std::bit_cast<uint32_t>(static_cast<float>(identity))
                            : static_cast<uint32_t>(static_cast<int64_t>(identity));
  std::fill_n(static_cast<uint32_t*>(partials), kPartials, bits);
}

void reduce_block(Op op, Type type, const void* block, size_t count, void* partials) {
  HWY_DYNAMIC_DISPATCH(ReduceBlock)(op, type, block, count, partials);
}

uint32_t end_reduction(Op op, Type type, const void* partials) {
  return HWY_DYNAMIC_DISPATCH(EndReduction)(op, type, partials);
}

void flush_streams() { hwy::FlushStream(); }

void fill_unit(uint32_t bits, void* unit) {
  std::fill_n(static_cast<uint32_t*>(unit), kBlockUnit, bits);
}

}  // namespace zmlx::kernel
#endif  // HWY_ONCE
