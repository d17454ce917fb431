// Blocks from and to memory of several types.

#if defined(ZMLX_KERNEL_BLOCK_MEMORY_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef ZMLX_KERNEL_BLOCK_MEMORY_INL_H_
#undef ZMLX_KERNEL_BLOCK_MEMORY_INL_H_
#else
#define ZMLX_KERNEL_BLOCK_MEMORY_INL_H_
#endif

#include <cstring>

#include "cpu/scalar-inl.h"
#include "hwy/highway.h"
#include "kernel/block_kernels.h"

HWY_BEFORE_NAMESPACE();
namespace zmlx::kernel::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;
using namespace cpu::HWY_NAMESPACE;  // NOLINT

inline size_t PaddedCount(size_t count) {
  return (count + kBlockUnit - 1) / kBlockUnit * kBlockUnit;
}

inline void FloatsFromUnsigned(const uint32_t* from, size_t count, float* to) {
  for (size_t i = 0; i < count; ++i) to[i] = static_cast<float>(from[i]);
}
inline void FloatsFromSigned(const int32_t* from, size_t count, float* to) {
  for (size_t i = 0; i < count; ++i) to[i] = static_cast<float>(from[i]);
}

inline void LoadBlock(Storage storage, Type type, const void* from, size_t count, void* block) {
  auto* floats = static_cast<float*>(block);
  if (storage == Storage::f16) {
    FloatsFrom<cpu::Scalar::f16>(from, count, floats);
  } else if (storage == Storage::bf16) {
    FloatsFrom<cpu::Scalar::bf16>(from, count, floats);
  } else if (storage == Storage::f32 || type != Type::float32) {
    std::memcpy(block, from, count * 4);
  } else if (storage == Storage::i32) {
    FloatsFromSigned(static_cast<const int32_t*>(from), count, floats);
  } else {
    FloatsFromUnsigned(static_cast<const uint32_t*>(from), count, floats);
  }
  for (size_t i = count; i < PaddedCount(count); ++i) floats[i] = 0;
}

/// Two vectors at a time, so that 16-bit results fill a vector.
template <Storage kStorage>
HWY_INLINE void StreamBlock(const float* from, size_t count, void* to) {
  const DF df;
  constexpr size_t kStep = 2 * kLanes;
  static_assert(kStep <= 2 * kBlockUnit);
  size_t i = 0;
  for (; i + kStep <= count; i += kStep) {
    const auto a = hn::Load(df, from + i);
    const auto b = hn::Load(df, from + i + kLanes);
    if constexpr (kStorage == Storage::f32) {
      hn::Stream(a, df, static_cast<float*>(to) + i);
      hn::Stream(b, df, static_cast<float*>(to) + i + kLanes);
    } else {
      constexpr auto kType = kStorage == Storage::f16 ? cpu::Scalar::f16 : cpu::Scalar::bf16;
      const hn::Repartition<uint16_t, DF> d16;
      hn::Stream(hn::Combine(d16, Halves<kType>(b), Halves<kType>(a)), d16,
                 static_cast<uint16_t*>(to) + i);
    }
  }
  if (i < count) {
    constexpr auto kType = kStorage == Storage::f32   ? cpu::Scalar::f32
                           : kStorage == Storage::f16 ? cpu::Scalar::f16
                                                      : cpu::Scalar::bf16;
    FloatsTo<kType>(from + i, count - i, static_cast<uint8_t*>(to) + i * size_of(kStorage));
  }
}

inline void StoreBlock(Storage storage, const void* block, size_t count, void* to, bool stream) {
  const auto* floats = static_cast<const float*>(block);
  constexpr size_t kVectorBytes = kLanes * sizeof(float);
  stream = stream && reinterpret_cast<uintptr_t>(to) % kVectorBytes == 0;
  if (storage == Storage::f16) {
    stream ? StreamBlock<Storage::f16>(floats, count, to)
           : FloatsTo<cpu::Scalar::f16>(floats, count, to);
  } else if (storage == Storage::bf16) {
    stream ? StreamBlock<Storage::bf16>(floats, count, to)
           : FloatsTo<cpu::Scalar::bf16>(floats, count, to);
  } else if (stream) {
    StreamBlock<Storage::f32>(floats, count, to);
  } else {
    std::memcpy(to, block, count * 4);
  }
}

}  // namespace zmlx::kernel::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // per-target include guard
