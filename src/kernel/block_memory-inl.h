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
#include "kernel/block_memory.h"

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

inline void StoreBlock(Storage storage, const void* block, size_t count, void* to) {
  const auto* floats = static_cast<const float*>(block);
  if (storage == Storage::f16) {
    FloatsTo<cpu::Scalar::f16>(floats, count, to);
  } else if (storage == Storage::bf16) {
    FloatsTo<cpu::Scalar::bf16>(floats, count, to);
  } else {
    std::memcpy(to, block, count * 4);
  }
}

}  // namespace zmlx::kernel::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // per-target include guard
