#pragma once

#include "scalar.cuh"

/// Loads of weights, which are read once, and copies to shared memory that run on their own.
namespace zmlx {

__device__ __forceinline__ uint4 load_once16(const void* p) {
  uint4 v;
  asm volatile("ld.global.nc.L1::no_allocate.L2::256B.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "l"(p));
  return v;
}

/// `Bytes` bytes of packed codes, as wide as their alignment allows.
template <int Bytes>
struct Packed {
  u32 word[(Bytes + 3) / 4];

  __device__ __forceinline__ void load(const u8* p) {
    if constexpr (Bytes == 16) {
      const uint4 v = load_once16(p);
      word[0] = v.x, word[1] = v.y, word[2] = v.z, word[3] = v.w;
    } else if constexpr (Bytes == 8) {
      const uint2 v = __ldg(reinterpret_cast<const uint2*>(p));
      word[0] = v.x, word[1] = v.y;
    } else if constexpr (Bytes % 4 == 0) {
#pragma unroll
      for (int i = 0; i < Bytes / 4; ++i) word[i] = __ldg(reinterpret_cast<const u32*>(p) + i);
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
  asm volatile("cp.async.cg.shared.global.L2::256B [%0], [%1], 16;"
               :
               : "r"(static_cast<u32>(__cvta_generic_to_shared(shared))), "l"(global)
               : "memory");
}
__device__ __forceinline__ void commit_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int Pending>
__device__ __forceinline__ void wait_for_copies() {
  asm volatile("cp.async.wait_group %0;" : : "n"(Pending) : "memory");
}

}  // namespace zmlx
