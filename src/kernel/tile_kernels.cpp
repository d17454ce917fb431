#include "kernel/tile_kernels.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernel/tile_kernels.cpp"
#include "hwy/foreach_target.h"
// Must come after foreach_target.h.
#include "hwy/cache_control.h"
#include "hwy/highway.h"
#include "kernel/tile_kernels-inl.h"

#if HWY_ONCE

#include <bit>

#include "kernel/row_formula.h"

namespace zmlx::kernel {

HWY_EXPORT(TileKernelTable);

const TileKernels& tile_kernels() { return HWY_DYNAMIC_DISPATCH(TileKernelTable)(); }

uint32_t identity_bits(Op op, Type type) {
  const double identity = identity_of(op, type);
  if (type == Type::float32) return std::bit_cast<uint32_t>(static_cast<float>(identity));
  return static_cast<uint32_t>(static_cast<int64_t>(identity));
}

void flush_streams() { hwy::FlushStream(); }

}  // namespace zmlx::kernel
#endif  // HWY_ONCE
