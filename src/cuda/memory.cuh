#pragma once

#include "scalar.cuh"

/// Loads of weights, which are read once, and copies to shared memory that run on their own.
namespace zmlx {

/// `Bytes` bytes of packed codes, as wide as their alignment allows.
template <int Bytes>
struct Packed {
  u32 word[(Bytes + 3) / 4];

  /// From shared memory where codes are whole words, else from global memory.
  __device__ __forceinline__ void load(const u8* p) {
    if constexpr (Bytes == 16) {
      const uint4 v = *reinterpret_cast<const uint4*>(p);
      word[0] = v.x, word[1] = v.y, word[2] = v.z, word[3] = v.w;
    } else if constexpr (Bytes % 4 == 0) {
#pragma unroll
      for (int i = 0; i < Bytes / 4; ++i) word[i] = reinterpret_cast<const u32*>(p)[i];
    } else {
      const u16* half = reinterpret_cast<const u16*>(p);
#pragma unroll
      for (int i = 0; i < Bytes / 4; ++i) {
        word[i] = __ldg(half + 2 * i) | static_cast<u32>(__ldg(half + 2 * i + 1)) << 16;
      }
      word[Bytes / 4] = __ldg(half + Bytes / 2 - 1);
    }
  }

  /// Code i of `Bits` bits; i is a constant once loops are unrolled.
  template <int Bits>
  __device__ __forceinline__ u32 code(int i) const {
    const int at = i * Bits, first = at / 32, shift = at % 32;
    u32 bits = word[first] >> shift;
    if (shift + Bits > 32) bits |= word[first + 1] << (32 - shift);
    return bits & ((1u << Bits) - 1);
  }
};

__device__ __forceinline__ void copy_async16(void* shared, const void* global) {
  // Without a hint to fetch 256 bytes into L2, which made streams of weights 3 to 7 % slower on one
  // H200.
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;"
               :
               : "r"(static_cast<u32>(__cvta_generic_to_shared(shared))), "l"(global)
               : "memory");
}
/// 4, 8 or 16 bytes, or several times 4.
template <int Bytes>
__device__ __forceinline__ void copy_async(void* shared, const void* global) {
  static_assert(Bytes % 4 == 0);
  if constexpr (Bytes == 16) {
    copy_async16(shared, global);
  } else {
    constexpr int kPart = Bytes == 8 ? 8 : 4;
#pragma unroll
    for (int i = 0; i < Bytes; i += kPart) {
      asm volatile("cp.async.ca.shared.global [%0], [%1], %2;"
                   :
                   : "r"(static_cast<u32>(__cvta_generic_to_shared(shared)) + i),
                     "l"(static_cast<const u8*>(global) + i), "n"(kPart)
                   : "memory");
    }
  }
}
__device__ __forceinline__ void commit_copies() {
  asm volatile("cp.async.commit_group;" ::: "memory");
}
template <int Pending>
__device__ __forceinline__ void wait_for_copies() {
  asm volatile("cp.async.wait_group %0;" : : "n"(Pending) : "memory");
}

}  // namespace zmlx
