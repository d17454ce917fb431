// The end of a reduction: from a vector of partial results to one number.

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
HWY_INLINE uint32_t ReduceVector(const float* from) {
  const DF df;
  VF sum = hn::LoadU(df, from);
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
      return is_float ? ReduceVector<AddF>(from) : ReduceVector<AddI>(from);
    case Op::multiply:
      return is_float ? ReduceVector<MulF>(from) : ReduceVector<MulI>(from);
    case Op::maximum:
      return is_float  ? ReduceVector<MaxF>(from)
             : is_uint ? ReduceVector<MaxU>(from)
                       : ReduceVector<MaxI>(from);
    case Op::minimum:
      return is_float  ? ReduceVector<MinF>(from)
             : is_uint ? ReduceVector<MinU>(from)
                       : ReduceVector<MinI>(from);
    case Op::bit_and:
      return ReduceVector<AndI>(from);
    case Op::bit_or:
      return ReduceVector<OrI>(from);
    default:
      return ReduceVector<XorI>(from);
  }
}

}  // namespace zmlx::kernel::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // per-target include guard
