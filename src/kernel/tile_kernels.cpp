#include "kernel/tile_kernels.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernel/tile_kernels.cpp"
#include "hwy/foreach_target.h"
// Must come after foreach_target.h.
#include "hwy/cache_control.h"
#include "hwy/highway.h"
#include "kernel/tile-inl.h"
#include "kernel/tile_kernels-inl.h"
#include "kernel/tile_reduce-inl.h"

#if HWY_ONCE

#include <bit>

#include "kernel/row_formula.h"

namespace zmlx::kernel {

HWY_EXPORT(TileKernelTable);
HWY_EXPORT(RunSteps);
HWY_EXPORT(FillTile);
HWY_EXPORT(EndReduction);

const TileKernels& tile_kernels() { return HWY_DYNAMIC_DISPATCH(TileKernelTable)(); }

void run_steps(const Step* first) { HWY_DYNAMIC_DISPATCH(RunSteps)(first); }

void fill_tile(void* tile, uint32_t bits) { HWY_DYNAMIC_DISPATCH(FillTile)(tile, bits); }

uint32_t end_reduction(Op op, Type type, const void* partials) {
  return HWY_DYNAMIC_DISPATCH(EndReduction)(op, type, partials);
}

uint32_t identity_bits(Op op, Type type) {
  const double identity = identity_of(op, type);
  if (type == Type::float32) return std::bit_cast<uint32_t>(static_cast<float>(identity));
  return static_cast<uint32_t>(static_cast<int64_t>(identity));
}

void flush_streams() { hwy::FlushStream(); }

}  // namespace zmlx::kernel
#endif  // HWY_ONCE
