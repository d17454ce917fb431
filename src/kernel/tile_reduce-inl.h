// The end of a reduction: from a tile of partial results to one number.

#if defined(ZMLX_KERNEL_TILE_REDUCE_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef ZMLX_KERNEL_TILE_REDUCE_INL_H_
#undef ZMLX_KERNEL_TILE_REDUCE_INL_H_
#else
#define ZMLX_KERNEL_TILE_REDUCE_INL_H_
#endif

#include "hwy/highway.h"
#include "kernel/tile_kernels-inl.h"

HWY_BEFORE_NAMESPACE();
namespace zmlx::kernel::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

template <class F>
HWY_INLINE uint32_t ReduceTile(const float* from) {
  const DF df;
  static_assert(kTileVectors == 8);
  const auto at = [&](size_t v) HWY_ATTR { return hn::LoadU(df, from + v * kLanes); };
  const VF a = F::Of(F::Of(at(0), at(1)), F::Of(at(2), at(3)));
  const VF b = F::Of(F::Of(at(4), at(5)), F::Of(at(6), at(7)));
  VF sum = F::Of(a, b);
#if HWY_MAX_BYTES > 16
  if constexpr (kLanes == 16) sum = F::Of(sum, hn::ConcatUpperUpper(df, sum, sum));
  if constexpr (kLanes >= 8) sum = F::Of(sum, hn::SwapAdjacentBlocks(sum));
#endif
  static_assert(kLanes == 4 || kLanes == 8 || kLanes == 16);
  sum = F::Of(sum, hn::Shuffle1032(sum));
  sum = F::Of(sum, hn::Shuffle2301(sum));
  return hn::GetLane(AsUint(sum));
}

inline uint32_t EndReduction(Op op, Type type, const void* partials) {
  const auto* from = static_cast<const float*>(partials);
  const bool is_float = type == Type::float32, is_uint = type == Type::uint32;
  switch (op) {
    case Op::add:
      return is_float ? ReduceTile<AddF>(from) : ReduceTile<AddI>(from);
    case Op::multiply:
      return is_float ? ReduceTile<MulF>(from) : ReduceTile<MulI>(from);
    case Op::maximum:
      return is_float  ? ReduceTile<MaxF>(from)
             : is_uint ? ReduceTile<MaxU>(from)
                       : ReduceTile<MaxI>(from);
    case Op::minimum:
      return is_float  ? ReduceTile<MinF>(from)
             : is_uint ? ReduceTile<MinU>(from)
                       : ReduceTile<MinI>(from);
    case Op::bit_and:
      return ReduceTile<AndI>(from);
    case Op::bit_or:
      return ReduceTile<OrI>(from);
    default:
      return ReduceTile<XorI>(from);
  }
}

}  // namespace zmlx::kernel::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // per-target include guard
