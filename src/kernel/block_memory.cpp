#include "kernel/block_memory.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernel/block_memory.cpp"
#include "hwy/foreach_target.h"
// Must come after foreach_target.h.
#include "hwy/highway.h"
#include "kernel/block_memory-inl.h"

#if HWY_ONCE

#include <algorithm>
#include <type_traits>

namespace zmlx::kernel {

HWY_EXPORT(LoadBlock);
HWY_EXPORT(StoreBlock);

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

void store_block(Storage storage, const void* block, size_t count, void* to) {
  HWY_DYNAMIC_DISPATCH(StoreBlock)(storage, block, count, to);
}

}  // namespace zmlx::kernel
#endif  // HWY_ONCE
