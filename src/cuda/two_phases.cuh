#pragma once

#include "scalar.cuh"

namespace zmlx {

/// Two phases of work in one launch, each of `Parts` parts; the second reads what all of the first
/// wrote. One launch instead of two saves the time between them (some 3 us on one H200), and lets
/// weights of the second phase arrive while the first one ends.
///
/// A block's part is claimed from a counter, not told by its index: so whoever waits for a part
/// waits for a block that runs, and the launch ends even if only one block fits on the GPU beside
/// other work. A block that is done with its part takes others that nobody has claimed yet.
///
/// There are as many claims as blocks and parts together, and as many parts written as there are
/// parts; so counters that begin anew at these numbers are zero again when the launch ends.
template <int Parts>
class TwoPhases {
 public:
  /// @param counters  two, zero between launches; nothing else on the GPU may use them meanwhile.
  __device__ __forceinline__ explicit TwoPhases(u32* counters) : counters_(counters) {}

  /// Asks for the part that this block begins with, which `first` returns after a barrier; `Parts`
  /// or more if none is left. The last warp waits for the answer, while others fetch what they
  /// need.
  __device__ __forceinline__ void ask() const {
    if (threadIdx.x == blockDim.x - 1) told() = claim();
  }
  __device__ __forceinline__ int first() const { return told(); }

  /// Says that a part of the first phase is written; to be called once for each part. Returns
  /// another one; if none is left, waits for all and returns `Parts` or more. Begins and ends with
  /// a barrier.
  __device__ __forceinline__ int next() {
    __syncthreads();
    if (threadIdx.x == 0) {
      // What the block wrote before the barrier is released, what others wrote acquired. Full
      // fences on both sides (`__threadfence`) would say more, and take longer.
      asm volatile("fence.acq_rel.gpu;" ::: "memory");
      // Neither waits for the other; and who is last need not ask again.
      const u32 part = claim();
      const bool last = arrive() == Parts - 1;
      while (part >= Parts && !last && acquire(counters_ + 1) != 0) {
      }
      told() = part;
    }
    __syncthreads();
    return told();
  }

 private:
  __device__ __forceinline__ u32 claim() const {
    return atomicInc(counters_, gridDim.x + Parts - 1);
  }
  __device__ __forceinline__ u32 arrive() const {
    u32 before;
    asm volatile("atom.acquire.gpu.global.inc.u32 %0, [%1], %2;"
                 : "=r"(before)
                 : "l"(counters_ + 1), "n"(Parts - 1)
                 : "memory");
    return before;
  }
  static __device__ __forceinline__ int& told() {
    __shared__ int part;
    return part;
  }
  static __device__ __forceinline__ u32 acquire(const u32* p) {
    u32 value;
    asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(value) : "l"(p) : "memory");
    return value;
  }

  u32* const counters_;
};

}  // namespace zmlx
