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
  static constexpr int kActivations = L::kStaged * kRowWords * 4;
  static constexpr int kScalesAt = C::kRing * L::kCodes;
  static constexpr int kActivationsAt = kScalesAt + kScaleBuffers * 2 * L::kScales;
  static constexpr int kWarpBytes = kActivationsAt + 2 * kActivations;
  static constexpr int kProductsAt = kWarps * kWarpBytes;
  static constexpr int kWeightsAt = kProductsAt + C::kMaxPairs * L::kRows * int(sizeof(Sum));
  static constexpr int kLeadersAt = kWeightsAt + C::kMaxPairs * 4;
  static constexpr int kPairsAt = kLeadersAt + C::kMaxPairs * 12;
  static constexpr int kUnits = L::kStageK / 8;       // 16 bytes of a row's stage
  static constexpr int kTokensPerLoad = 32 / kUnits;  // of a warp
  static constexpr int kLoads = (L::kStaged + kTokensPerLoad - 1) / kTokensPerLoad;

  /// An expert that is asked for, and where its pairs begin in `order_`.
  struct Leader {
    u32 expert;
    int count, first;
  };

  /// One stage of up to eight pairs of one expert.
  struct Cursor {
    int leader, chunk, stage, item;
    __device__ __forceinline__ void advance(const CombineMma& self) {
      if (++stage < L::kStages) return;
      stage = 0, ++item;
      if (++chunk * L::kStaged < self.leaders_[leader].count) return;
      chunk = 0, leader += kWarps;
    }
  };

 public:
  static constexpr int kShared = kPairsAt + C::kMaxPairs * 4 + (C::E + 1) * 4;

  __device__ __forceinline__ CombineMma(const T* x, const Experts<T, T>& down, const u32* indices,
                                        const typename C::Weight* weights, int tokens)
      : x_(x), down_(down), indices_(indices), weights_(weights), pairs_(tokens * C::kTopK) {
    extern __shared__ uint4 shared[];
    u8* memory = reinterpret_cast<u8*>(shared);
    warp_memory_ = memory + threadIdx.x / 32 * kWarpBytes;
    products_ = reinterpret_cast<Sum*>(memory + kProductsAt);
    pair_weights_ = reinterpret_cast<float*>(memory + kWeightsAt);
    leaders_ = reinterpret_cast<Leader*>(memory + kLeadersAt);
    ranks_ = reinterpret_cast<u16*>(memory + kPairsAt);
    order_ = ranks_ + C::kMaxPairs;
    counts_ = reinterpret_cast<int*>(order_ + C::kMaxPairs);
  }

  __device__ __forceinline__ void run(typename C::Out* out) {
    find_leaders();
    Cursor ahead{warp_, 0, 0, 0}, now = ahead;
#pragma unroll
    for (int s = 0; s < C::kRing; ++s) start(ahead, s);
    if (now.leader < leader_count_) load_activations(now);
    int slot = 0, step = 0;
    bool linear = false;
    float sums[4] = {0, 0, 0, 0};
    while (now.leader < leader_count_) {
      Cursor next = now;
      next.advance(*this);
      store_activations_of(now, step);
      wait_for_copies<C::kRing - 1>();
      __syncwarp();
      if (next.leader < leader_count_) load_activations(next);
      if (now.stage == 0) linear = make_linear<C>(scales_of(now.item));
      const int token = min(lane_ / 4, members(now) - 1);
      MmaStage<C>::run(linear, warp_memory_ + slot * L::kCodes, scales_of(now.item), now.stage,
                       activations(step) + token * kRowWords, token, 0, sums);
      if (next.item != now.item) finish(now, sums);
      __syncwarp();
      start(ahead, slot);
      slot = slot + 1 == C::kRing ? 0 : slot + 1;
      step ^= 1;
      now = next;
    }
    __syncthreads();
    add_up(out);
  }

 private:
  __device__ __forceinline__ void find_leaders() {
    if constexpr (C::kMaxTokens == 1) {
      take_each_pair();
    } else {
      group_pairs();
    }
  }

  /// A token's experts differ; if not, each of its pairs is multiplied anew.
  __device__ __forceinline__ void take_each_pair() {
    for (int pair = threadIdx.x; pair < C::kTopK; pair += C::kThreads) {
      leaders_[pair] = {note_pair(pair) ? expert_of<C>(indices_, pair) : 0, 1, pair};
      order_[pair] = pair;
    }
    leader_count_ = C::kTopK;
    __syncthreads();
  }

  /// Groups the pairs by expert, in any order: results do not depend on it.
  __device__ __forceinline__ void group_pairs() {
    for (int i = threadIdx.x; i <= C::E; i += C::kThreads) counts_[i] = 0;
    __syncthreads();
    for (int pair = threadIdx.x; pair < pairs_; pair += C::kThreads) {
      if (!note_pair(pair)) continue;
      const u32 expert = expert_of<C>(indices_, pair);
      ranks_[pair] = atomicAdd(counts_ + expert, 1);
      if (ranks_[pair] == 0) leaders_[atomicAdd(counts_ + C::E, 1)].expert = expert;
    }
    __syncthreads();
    leader_count_ = counts_[C::E];
    if (warp_ == 0) place_leaders();
    __syncthreads();
    // From here on counts_ holds where an expert's pairs begin.
    for (int pair = threadIdx.x; pair < pairs_; pair += C::kThreads) {
      const u32 expert = expert_of<C>(indices_, pair);
      if (expert < C::E) order_[counts_[expert] + ranks_[pair]] = pair;
    }
    __syncthreads();
  }

  /// Reads the router's weight of a pair. False if its expert does not exist: its products are NaN.
  __device__ __forceinline__ bool note_pair(int pair) {
    pair_weights_[pair] = to_float(
        weights_[pair / C::kTopK * C::kWeightTokenStride + pair % C::kTopK * C::kWeightSlotStride]);
    const bool exists = expert_of<C>(indices_, pair) < C::E;
    if (!exists) {
      pair_weights_[pair] = __int_as_float(0x7fffffff);
      for (int i = 0; i < L::kRows; ++i) products_[pair * L::kRows + i] = not_a_number<Sum>();
    }
    return exists;
  }

  __device__ __forceinline__ void place_leaders() {
    int before = 0;
    for (int base = 0; base < leader_count_; base += 32) {
      const int i = base + lane_;
      const int count = i < leader_count_ ? counts_[leaders_[i].expert] : 0;
      int end = count;
#pragma unroll
      for (int distance = 1; distance < 32; distance *= 2) {
        const int other = __shfl_up_sync(0xffffffffu, end, distance);
        if (lane_ >= distance) end += other;
      }
      if (i < leader_count_) {
        leaders_[i].count = count, leaders_[i].first = before + end - count;
        counts_[leaders_[i].expert] = before + end - count;
      }
      before += __shfl_sync(0xffffffffu, end, 31);
    }
  }

  __device__ __forceinline__ int members(const Cursor& c) const {
    return min(L::kStaged, leaders_[c.leader].count - c.chunk * L::kStaged);
  }
  __device__ __forceinline__ const u16* pairs_of(const Cursor& c) const {
    return order_ + leaders_[c.leader].first + c.chunk * L::kStaged;
  }
  __device__ __forceinline__ u8* scales_of(int item) const {
    return warp_memory_ + kScalesAt + item % kScaleBuffers * 2 * L::kScales;
  }
  __device__ __forceinline__ u32* activations(int step) const {
    return reinterpret_cast<u32*>(warp_memory_ + kActivationsAt + step * kActivations);
  }

  /// Starts the copies of one stage into a slot of the ring, and moves on.
  __device__ __forceinline__ void start(Cursor& ahead, int slot) {
    if (ahead.leader < leader_count_) {
      const WeightTile<C> tile(down_, leaders_[ahead.leader].expert, blockIdx.x * L::kRows);
      if (ahead.stage == 0) tile.copy_scales(scales_of(ahead.item));
      tile.copy_stage(warp_memory_ + slot * L::kCodes, ahead.stage);
      ahead.advance(*this);
    }
    commit_copies();
  }

  __device__ __forceinline__ void load_activations(const Cursor& c) {
    const int tokens = members(c), unit = lane_ % kUnits;
    const u16* pairs = pairs_of(c);
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
    const u16* pairs = pairs_of(c);
    const u32 expert = leaders_[c.leader].expert;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int token = 2 * t + i % 2, row = g + i / 2 * 8;
      if (token < tokens) {
        const int pair = pairs[token];
        const auto y = with_bias<C>(sums[i], down_, expert, blockIdx.x * L::kRows + row);
        products_[pair * L::kRows + row] = weighted<Sum>(y, pair_weights_[pair]);
      }
      sums[i] = 0;
    }
  }

  __device__ __forceinline__ void add_up(typename C::Out* out) const {
    const int tokens = pairs_ / C::kTopK;
    for (int i = threadIdx.x; i < tokens * L::kRows; i += C::kThreads) {
      const int token = i / L::kRows, row = i % L::kRows;
      const Sum sum =
          sum_in_order<C::kTopK>(products_ + token * C::kTopK * L::kRows + row, L::kRows);
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
  float* pair_weights_;
  Leader* leaders_;
  u16 *ranks_, *order_;
  int* counts_;
  int leader_count_ = 0;
  uint4 loaded_[kLoads];
};

}  // namespace zmlx
