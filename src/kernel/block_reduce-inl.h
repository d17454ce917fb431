// Reductions of blocks to one number.

#if defined(ZMLX_KERNEL_BLOCK_REDUCE_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef ZMLX_KERNEL_BLOCK_REDUCE_INL_H_
#undef ZMLX_KERNEL_BLOCK_REDUCE_INL_H_
#else
#define ZMLX_KERNEL_BLOCK_REDUCE_INL_H_
#endif

#include <algorithm>
#include <cstring>

#include "hwy/highway.h"
#include "kernel/block_kernels.h"
#include "kernel/block_math-inl.h"

HWY_BEFORE_NAMESPACE();
namespace zmlx::kernel::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

/// partials[i % kPartials] = op(partials[i % kPartials], block[i]).
template <class D, typename F>
HWY_INLINE void ReduceWith(const void* block, size_t count, void* partials, const F& f) {
  const D d;
  using T = hn::TFromD<D>;
  const auto* from = static_cast<const T*>(block);
  auto* sums = static_cast<T*>(partials);
  constexpr size_t kVectors = 4;
  constexpr size_t kStep = kVectors * kLanes;
  static_assert(kPartials % kStep == 0);
  size_t i = 0;
  // Four independent sums in registers; SSE's are a quarter of the partial results each.
  if (count >= kStep) {
    auto a = hn::LoadU(d, sums), b = hn::LoadU(d, sums + kLanes);
    auto c = hn::LoadU(d, sums + 2 * kLanes), e = hn::LoadU(d, sums + 3 * kLanes);
    for (; i + kStep <= count; i += kStep) {
      a = f(a, hn::LoadU(d, from + i));
      b = f(b, hn::LoadU(d, from + i + kLanes));
      c = f(c, hn::LoadU(d, from + i + 2 * kLanes));
      e = f(e, hn::LoadU(d, from + i + 3 * kLanes));
    }
    hn::StoreU(a, d, sums);
    hn::StoreU(b, d, sums + kLanes);
    hn::StoreU(c, d, sums + 2 * kLanes);
    hn::StoreU(e, d, sums + 3 * kLanes);
  }
  for (; i + kLanes <= count; i += kLanes) {
    hn::StoreU(f(hn::LoadU(d, sums), hn::LoadU(d, from + i)), d, sums);
  }
  if (i == count) return;
  // The rest in the first lanes; the others are computed and dropped.
  HWY_ALIGN T rest[kLanes] = {}, before[kLanes];
  std::memcpy(rest, from + i, (count - i) * sizeof(T));
  hn::Store(f(hn::LoadU(d, sums), hn::Load(d, rest)), d, before);
  std::memcpy(sums, before, (count - i) * sizeof(T));
}

/// Halves the partial results until one is left.
template <class D, typename F>
HWY_INLINE uint32_t EndWith(const void* partials, const F& f) {
  const D d;
  using T = hn::TFromD<D>;
  HWY_ALIGN T sums[kPartials];
  std::memcpy(sums, partials, sizeof(sums));
  for (size_t half = kPartials / 2; half >= kLanes; half /= 2) {
    for (size_t i = 0; i < half; i += kLanes) {
      hn::Store(f(hn::Load(d, sums + i), hn::Load(d, sums + half + i)), d, sums + i);
    }
  }
  // Within the last vector through memory.
  for (size_t half = kLanes / 2; half > 0; half /= 2) {
    HWY_ALIGN T upper[kLanes] = {};
    std::memcpy(upper, sums + half, half * sizeof(T));
    hn::Store(f(hn::Load(d, sums), hn::Load(d, upper)), d, sums);
  }
  uint32_t bits;
  std::memcpy(&bits, sums, sizeof(bits));
  return bits;
}

/// Calls g with the vector tag and the operation.
template <typename G>
HWY_INLINE void WithReduction(Op op, Type type, const G& g) {
  const bool is_float = type == Type::float32;
  if (is_float && op == Op::add) {
    g(DF(), [](auto a, auto b) HWY_ATTR { return hn::Add(a, b); });
  } else if (is_float && op == Op::multiply) {
    g(DF(), [](auto a, auto b) HWY_ATTR { return hn::Mul(a, b); });
  } else if (is_float && op == Op::maximum) {
    g(DF(), [](auto a, auto b) HWY_ATTR { return Maximum(a, b); });
  } else if (is_float) {
    g(DF(), [](auto a, auto b) HWY_ATTR { return Minimum(a, b); });
  } else if (op == Op::add) {
    g(DI(), [](auto a, auto b) HWY_ATTR { return hn::Add(a, b); });
  } else if (op == Op::multiply) {
    g(DI(), [](auto a, auto b) HWY_ATTR { return hn::Mul(a, b); });
  } else if (op == Op::bit_and) {
    g(DI(), [](auto a, auto b) HWY_ATTR { return hn::And(a, b); });
  } else if (op == Op::bit_or) {
    g(DI(), [](auto a, auto b) HWY_ATTR { return hn::Or(a, b); });
  } else if (op == Op::bit_xor) {
    g(DI(), [](auto a, auto b) HWY_ATTR { return hn::Xor(a, b); });
  } else if (type == Type::uint32 && op == Op::maximum) {
    g(DU(), [](auto a, auto b) HWY_ATTR { return hn::Max(a, b); });
  } else if (type == Type::uint32) {
    g(DU(), [](auto a, auto b) HWY_ATTR { return hn::Min(a, b); });
  } else if (op == Op::maximum) {
    g(DI(), [](auto a, auto b) HWY_ATTR { return hn::Max(a, b); });
  } else {
    g(DI(), [](auto a, auto b) HWY_ATTR { return hn::Min(a, b); });
  }
}

inline void ReduceBlock(Op op, Type type, const void* block, size_t count, void* partials) {
  WithReduction(op, type, [&](auto d, const auto& f) HWY_ATTR {
    ReduceWith<decltype(d)>(block, count, partials, f);
  });
}

inline uint32_t EndReduction(Op op, Type type, const void* partials) {
  uint32_t bits = 0;
  WithReduction(op, type,
                [&](auto d, const auto& f) HWY_ATTR { bits = EndWith<decltype(d)>(partials, f); });
  return bits;
}

}  // namespace zmlx::kernel::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // per-target include guard
