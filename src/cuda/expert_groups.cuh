#pragma once

#include "experts.cuh"

namespace zmlx {

/// The (token, expert) pairs of a call, those of one expert side by side, in groups of at most
/// `Most`: a group is multiplied with its expert's weights at once. All blocks of a launch make the
/// same groups. They are `At` bytes into the shared memory.
template <class C, int Most, int At>
class ExpertGroups {
 public:
  struct Group {
    u32 expert;
    int first, count;  // in `pair`
  };

  // Bytes of shared memory, aligned to 4.
  static constexpr int kShared = C::kMaxPairs * (12 + 2 + 2) + (C::E + 1) * 4;

  /// To be called by the whole block. `missing` is called with pairs whose expert does not exist;
  /// they are in no group, or in one of an expert that exists. Ends with a barrier.
  template <typename Missing>
  static __device__ __forceinline__ void gather(const u32* indices, int pair_count, const Missing& missing) {
    if constexpr (C::kMaxTokens == 1) {
      take_each_pair(indices, pair_count, missing);
    } else {
      gather_pairs(indices, pair_count, missing);
    }
  }

  static __device__ __forceinline__ int count() { return counts()[C::E]; }
  static __device__ __forceinline__ const Group& group(int i) { return groups()[i]; }
  static __device__ __forceinline__ int pair(int i) { return pairs()[i]; }

 private:
  static constexpr u16 kMissing = 0xffff;

  /// A token's experts differ; if not, each of its pairs is multiplied anew.
  template <typename Missing>
  static __device__ __forceinline__ void take_each_pair(const u32* indices, int pair_count,
                                                 const Missing& missing) {
    for (int pair = threadIdx.x; pair < pair_count; pair += C::kThreads) {
      const u32 expert = expert_of<C>(indices, pair);
      groups()[pair] = {expert < C::E ? expert : 0, pair, 1};
      pairs()[pair] = pair;
      if (expert >= C::E) missing(pair);
    }
    if (threadIdx.x == 0) counts()[C::E] = pair_count;
    __syncthreads();
  }

  template <typename Missing>
  static __device__ __forceinline__ void gather_pairs(const u32* indices, int pair_count,
                                               const Missing& missing) {
    for (int i = threadIdx.x; i <= C::E; i += C::kThreads) counts()[i] = 0;
    for (int pair = threadIdx.x; pair < pair_count; pair += C::kThreads) {
      const u32 expert = expert_of<C>(indices, pair);
      ranks()[pair] = expert < C::E ? expert : kMissing;
      if (expert >= C::E) missing(pair);
    }
    __syncthreads();
    if (threadIdx.x < 32) {
      rank(pair_count);
      place();
    }
    __syncthreads();
    // From here on counts() holds where an expert's pairs begin.
    for (int pair = threadIdx.x; pair < pair_count; pair += C::kThreads) {
      const u32 expert = expert_of<C>(indices, pair);
      if (expert < C::E) pairs()[counts()[expert] + ranks()[pair]] = pair;
    }
    __syncthreads();
  }

  /// Counts each expert's pairs, and puts in the place of a pair's expert how many came before.
  static __device__ __forceinline__ void rank(int pair_count) {
    const u32 before = (1u << threadIdx.x) - 1;
    for (int base = 0; base < pair_count; base += 32) {
      const int pair = base + threadIdx.x;
      const u16 expert = pair < pair_count ? ranks()[pair] : kMissing;
      const u32 same = __match_any_sync(0xffffffffu, expert);
      if (expert != kMissing) {
        const int count = counts()[expert];
        ranks()[pair] = count + __popc(same & before);
        __syncwarp(same);
        if ((same & before) == 0) counts()[expert] = count + __popc(same);
      }
      __syncwarp();
    }
  }

  /// Sums over experts before each one: its pairs in the low half, its groups in the high one.
  static __device__ __forceinline__ void place() {
    const int lane = threadIdx.x;
    int before = 0;
    for (int base = 0; base < C::E; base += 32) {
      const int expert = base + lane;
      const int count = expert < C::E ? counts()[expert] : 0;
      const int own = count | (count + Most - 1) / Most << 16;
      int end = own;
#pragma unroll
      for (int distance = 1; distance < 32; distance *= 2) {
        const int other = __shfl_up_sync(0xffffffffu, end, distance);
        if (lane >= distance) end += other;
      }
      const int first = (before + end - own) & 0xffff, at = (before + end - own) >> 16;
      for (int i = 0; i * Most < count; ++i) {
        groups()[at + i] = {static_cast<u32>(expert), first + i * Most, min(Most, count - i * Most)};
      }
      if (count > 0) counts()[expert] = first;
      before += __shfl_sync(0xffffffffu, end, 31);
    }
    if (lane == 0) counts()[C::E] = before >> 16;
  }

  static __device__ __forceinline__ Group* groups() {
    extern __shared__ uint4 shared[];
    return reinterpret_cast<Group*>(reinterpret_cast<u8*>(shared) + At);
  }
  static __device__ __forceinline__ int* counts() {
    return reinterpret_cast<int*>(groups() + C::kMaxPairs);
  }
  static __device__ __forceinline__ u16* pairs() {
    return reinterpret_cast<u16*>(counts() + C::E + 1);
  }
  static __device__ __forceinline__ u16* ranks() { return pairs() + C::kMaxPairs; }
};

}  // namespace zmlx
