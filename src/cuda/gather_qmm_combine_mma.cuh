#pragma once

#include "mma_product.cuh"

namespace zmlx {

/// Down projection and weighted sum, 16 rows a block. Grid: tiles of rows. The warps share out the
/// experts that any token asks for; each expert's rows are read once for all of its pairs. Products
/// of all pairs meet in shared memory, where each token's are added in their order.
template <class C>
class CombineMma {
  using T = typename C::T;
  using Sum = typename C::Sum;
  using L = MmaLayout<C>;
  static constexpr int kWarps = C::kThreads / 32;
  // A ring of stages may reach into several experts ahead.
  static constexpr int kScaleBuffers = (C::kRing + L::kStages - 1) / L::kStages + 1;
  static constexpr int kRowWords = L::kStageK / 2;
  static constexpr int kActivations = L::kTokens * kRowWords * 4;
  static constexpr int kScalesAt = C::kRing * L::kCodes;
  static constexpr int kActivationsAt = kScalesAt + kScaleBuffers * 2 * L::kScales;
  static constexpr int kListsAt = kActivationsAt + 2 * kActivations;
  static constexpr int kWarpBytes = kListsAt + 2 * C::kMaxPairs * 2;
  static constexpr int kProductsAt = kWarps * kWarpBytes;
  static constexpr int kLeadersAt = kProductsAt + C::kMaxPairs * L::kRows * int(sizeof(Sum));
  static constexpr int kCountsAt = kLeadersAt + C::kMaxPairs * 4;
  static constexpr int kUnits = L::kStageK / 8;           // 16 bytes of a row's stage
  static constexpr int kTokensPerLoad = 32 / kUnits;      // of a warp
  static constexpr int kLoads = L::kTokens / kTokensPerLoad;

  /// One stage of eight pairs of one expert.
  struct Cursor {
    int leader, chunk, stage, item;
    __device__ __forceinline__ void advance(const CombineMma& self) {
      if (++stage < L::kStages) return;
      stage = 0, ++item;
      if (++chunk * L::kTokens < self.counts_[self.expert(leader)]) return;
      chunk = 0, leader += kWarps;
    }
  };

 public:
  static constexpr int kShared = kCountsAt + (C::E + 4) * 4;

  __device__ __forceinline__ CombineMma(const T* x, const Experts<T, T>& down, const u32* indices,
                                        const typename C::Weight* weights, int tokens)
      : x_(x), down_(down), indices_(indices), weights_(weights), pairs_(tokens * C::kTopK) {
    extern __shared__ uint4 shared[];
    u8* memory = reinterpret_cast<u8*>(shared);
    warp_memory_ = memory + threadIdx.x / 32 * kWarpBytes;
    products_ = reinterpret_cast<Sum*>(memory + kProductsAt);
    leaders_ = reinterpret_cast<u32*>(memory + kLeadersAt);
    counts_ = reinterpret_cast<int*>(memory + kCountsAt);
  }

  __device__ __forceinline__ void run(typename C::Out* out) {
    find_leaders();
    Cursor ahead{warp_, 0, 0, 0}, now = ahead;
#pragma unroll
    for (int s = 0; s < C::kRing; ++s) start(ahead, s);
    if (now.leader < leader_count()) {
      gather_members(now);
      load_activations(now);
    }
    int slot = 0;
    float sums[4] = {0, 0, 0, 0};
    while (now.leader < leader_count()) {
      Cursor next = now;
      next.advance(*this);
      const int step = buffer_++ & 1;
      store_activations_of(now, step);
      wait_for_copies<C::kRing - 1>();
      __syncwarp();
      if (next.leader < leader_count()) {
        if (next.item != now.item) gather_members(next);
        load_activations(next);
      }
      MmaStage<C>::run(warp_memory_ + slot * L::kCodes, scales_of(now.item), now.stage,
                       activations(step), kRowWords, 0, members(now) - 1, sums);
      if (next.item != now.item) finish(now, sums);
      __syncwarp();
      start(ahead, slot);
      slot = slot + 1 == C::kRing ? 0 : slot + 1;
      now = next;
    }
    __syncthreads();
    add_up(out);
  }

 private:
  /// The first pair of every expert asked for, in any order, and how many pairs each expert has.
  __device__ __forceinline__ void find_leaders() {
    for (int i = threadIdx.x; i <= C::E; i += C::kThreads) counts_[i] = 0;
    __syncthreads();
    for (int pair = threadIdx.x; pair < pairs_; pair += C::kThreads) {
      const u32 expert = expert_of<C>(indices_, pair);
      if (expert >= C::E) {
        for (int i = 0; i < L::kRows; ++i) products_[pair * L::kRows + i] = not_a_number<Sum>();
      } else if (atomicAdd(counts_ + expert, 1) == 0) {
        leaders_[atomicAdd(counts_ + C::E, 1)] = expert;
      }
    }
    __syncthreads();
  }

  __device__ __forceinline__ int leader_count() const { return counts_[C::E]; }
  __device__ __forceinline__ u32 expert(int leader) const { return leaders_[leader]; }
  __device__ __forceinline__ int members(const Cursor& c) const {
    return min(L::kTokens, counts_[expert(c.leader)] - c.chunk * L::kTokens);
  }
  __device__ __forceinline__ u8* scales_of(int item) const {
    return warp_memory_ + kScalesAt + item % kScaleBuffers * 2 * L::kScales;
  }
  __device__ __forceinline__ u32* activations(int step) const {
    return reinterpret_cast<u32*>(warp_memory_ + kActivationsAt + step * kActivations);
  }
  __device__ __forceinline__ u16* list(int item) const {
    return reinterpret_cast<u16*>(warp_memory_ + kListsAt) + (item & 1) * C::kMaxPairs;
  }

  /// Starts the copies of one stage into a slot of the ring, and moves on.
  __device__ __forceinline__ void start(Cursor& ahead, int slot) {
    if (ahead.leader < leader_count()) {
      const WeightTile<C> tile(down_, expert(ahead.leader), blockIdx.x * L::kRows);
      if (ahead.stage == 0) tile.copy_scales(scales_of(ahead.item));
      tile.copy_stage(warp_memory_ + slot * L::kCodes, ahead.stage);
      ahead.advance(*this);
    }
    commit_copies();
  }

  __device__ __forceinline__ void gather_members(const Cursor& c) {
    int count = 0;
    for (int base = 0; base < pairs_; base += 32) {
      const int pair = base + lane_;
      const bool member = pair < pairs_ && expert_of<C>(indices_, pair) == expert(c.leader);
      const u32 ballot = __ballot_sync(0xffffffffu, member);
      if (member) list(c.item)[count + __popc(ballot & ((1u << lane_) - 1))] = pair;
      count += __popc(ballot);
    }
    __syncwarp();
  }

  __device__ __forceinline__ void load_activations(const Cursor& c) {
    const int tokens = members(c), unit = lane_ % kUnits;
    const u16* pairs = list(c.item) + c.chunk * L::kTokens;
    const bool inside = c.stage * L::kStageK + unit * 8 < C::K;
#pragma unroll
    for (int i = 0; i < kLoads; ++i) {
      const int token = i * kTokensPerLoad + lane_ / kUnits;
      if (token < tokens && inside) {
        const T* row = x_ + static_cast<long long>(pairs[token]) * C::K + c.stage * L::kStageK;
        loaded_[i] = __ldg(reinterpret_cast<const uint4*>(row) + unit);
      }
    }
  }

  __device__ __forceinline__ void store_activations_of(const Cursor& c, int step) {
    const int tokens = members(c);
#pragma unroll
    for (int i = 0; i < kLoads; ++i) {
      const int token = i * kTokensPerLoad + lane_ / kUnits;
      if (token < tokens) {
        store_activations(activations(step) + token * kRowWords, token, lane_ % kUnits, loaded_[i]);
      }
    }
  }

  /// Rounds and weights the products of one expert's pairs.
  __device__ __forceinline__ void finish(const Cursor& c, float (&sums)[4]) {
    const int g = lane_ / 4, t = lane_ % 4, tokens = members(c);
    const u16* pairs = list(c.item) + c.chunk * L::kTokens;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int token = 2 * t + i % 2, row = g + i / 2 * 8;
      if (token < tokens) {
        const int pair = pairs[token];
        const auto y = with_bias<C>(sums[i], down_, expert(c.leader), blockIdx.x * L::kRows + row);
        const auto weight = weights_[pair / C::kTopK * C::kWeightTokenStride +
                                     pair % C::kTopK * C::kWeightSlotStride];
        products_[pair * L::kRows + row] = weighted<Sum>(y, weight);
      }
      sums[i] = 0;
    }
  }

  __device__ __forceinline__ void add_up(typename C::Out* out) const {
    const int tokens = pairs_ / C::kTopK;
    for (int i = threadIdx.x; i < tokens * L::kRows; i += C::kThreads) {
      const int token = i / L::kRows, row = i % L::kRows;
      const Sum sum = sum_in_order<C::kTopK>(products_ + token * C::kTopK * L::kRows + row, L::kRows);
      out[static_cast<long long>(token) * C::N + blockIdx.x * L::kRows + row] =
          round_to<typename C::Out>(to_float(sum));
    }
  }

  const T* x_;
  const Experts<T, T> down_;
  const u32* indices_;
  const typename C::Weight* weights_;
  const int pairs_;
  const int warp_ = threadIdx.x / 32, lane_ = threadIdx.x % 32;
  u8* warp_memory_;
  Sum* products_;
  u32* leaders_;
  int* counts_;
  int buffer_ = 0;
  uint4 loaded_[kLoads];
};

}  // namespace zmlx
