#pragma once

#include "activation.cuh"
#include "mma_product.cuh"

namespace zmlx {

/// The pairs that ask for one expert, gathered by every warp of a block for itself.
template <class C>
struct ExpertMembers {
  int count = 0;
  bool leads = true;  // no earlier pair than `pair` asks for it

  /// @param list  gets the pairs, ascending, from the warps that pass `write`.
  __device__ __forceinline__ ExpertMembers(const u32* indices, u32 expert, int pair, int pairs,
                                           bool write, u16* list) {
    const int lane = threadIdx.x % 32;
#pragma unroll 4
    for (int base = 0; base < pairs; base += 32) {
      const bool member = base + lane < pairs && expert_of<C>(indices, base + lane) == expert;
      const u32 members = __ballot_sync(0xffffffffu, member);
      const int rank = __popc(members & ((1u << lane) - 1));
      if (write && member) list[count + rank] = base + lane;
      const int before = pair - base;
      if (before >= 32 ? members : before > 0 ? members & ((1u << before) - 1) : 0) leads = false;
      count += __popc(members);
    }
  }
};

/// Gate, up and activation of all pairs of one expert, 16 rows a warp: even warps make gate rows
/// and odd ones up rows. Grid: tiles of rows, pairs; the first pair of an expert makes all of its
/// pairs.
template <class C>
class SwigluMma {
  using T = typename C::T;
  using L = MmaLayout<C>;
  static constexpr int kWarps = C::kThreads / 32;
  static constexpr int kTile = kWarps / 2 * L::kRows;
  static constexpr int kWarpBytes = C::kRing * L::kCodes + 2 * L::kScales;
  static constexpr int kRowWords = C::K / 2;
  static constexpr int kActivations = kWarps * kWarpBytes;
  static constexpr int kActivationBytes = L::kStaged * kRowWords * 4;
  static constexpr int kResultBytes = 2 * L::kStaged * kTile * static_cast<int>(sizeof(float));
  // Results take the place of activations.
  static constexpr int kList =
      kActivations + (kActivationBytes > kResultBytes ? kActivationBytes : kResultBytes);

 public:
  static constexpr int kShared = kList + C::kMaxPairs * 2;

  static __device__ __forceinline__ void run(const T* x, const Experts<T, T>& gate,
                                             const Experts<T, T>& up, const u32* indices,
                                             const u32* rows, T* out) {
    extern __shared__ uint4 shared[];
    u8* memory = reinterpret_cast<u8*>(shared);
    auto* list = reinterpret_cast<u16*>(memory + kList);
    const int pair = blockIdx.y, warp = threadIdx.x / 32;
    const u32 expert = expert_of<C>(indices, pair);
    const int n = blockIdx.x * kTile;
    if (expert >= C::E) {
      for (int i = threadIdx.x; i < kTile && n + i < C::N; i += C::kThreads) {
        out[static_cast<long long>(pair) * C::N + n + i] = not_a_number<T>();
      }
      return;
    }
    int count = 1;
    if constexpr (C::kMaxTokens == 1) {
      // A token's experts differ; if not, each pair makes its own copy of the result.
      if (threadIdx.x == 0) list[0] = pair;
    } else {
      const ExpertMembers<C> members(indices, expert, pair, gridDim.y, warp == 0, list);
      if (!members.leads) return;
      count = members.count;
    }
    const int row = min(n + warp / 2 * L::kRows, C::N - L::kRows);
    const WeightTile<C> tile(warp % 2 ? up : gate, expert, row);
    for (int at = 0; at < count; at += L::kStaged) {
      const int tokens = min(L::kStaged, count - at);
      float sums[4] = {0, 0, 0, 0};
      product(tile, x, rows, list + at, tokens, memory, sums);
      finish(sums, gate, up, expert, rows, list + at, tokens, memory, out);
    }
  }

 private:
  static __device__ __forceinline__ void product(const WeightTile<C>& tile, const T* x,
                                                 const u32* rows, const u16* list, int tokens,
                                                 u8* memory, float (&sums)[4]) {
    u8* codes = memory + threadIdx.x / 32 * kWarpBytes;
    u8* scales = codes + C::kRing * L::kCodes;
    auto* activations = reinterpret_cast<u32*>(memory + kActivations);
    tile.copy_scales(scales);
#pragma unroll
    for (int s = 0; s < C::kRing; ++s) {
      if (s < L::kStages) tile.copy_stage(codes + s * L::kCodes, s);
      commit_copies();
    }
    __syncthreads();  // the list is written
    for (int i = threadIdx.x; i < tokens * L::kUnits; i += C::kThreads) {
      const int token = i / L::kUnits, half = i % L::kUnits;
      const long long row = max(row_of<C>(rows, list[token]), 0);
      store_activations(activations + token * kRowWords, token, half,
                        __ldg(reinterpret_cast<const uint4*>(x + row * C::K) + half));
    }
    __syncthreads();
    bool linear = false;
    const int token = min(static_cast<int>(threadIdx.x % 32 / 4), tokens - 1);
#pragma unroll 1
    for (int s = 0; s < L::kStages; ++s) {
      wait_for_copies<C::kRing - 1>();
      __syncwarp();
      if (s == 0) linear = make_linear<C>(scales);
      u8* stage = codes + s % C::kRing * L::kCodes;
      MmaStage<C>::run(linear, stage, scales, s, activations + token * kRowWords, token,
                       s * (L::kStageK / 32), sums);
      __syncwarp();
      if (s + C::kRing < L::kStages) tile.copy_stage(stage, s + C::kRing);
      commit_copies();
    }
  }

  static __device__ __forceinline__ void finish(const float (&sums)[4], const Experts<T, T>& gate,
                                                const Experts<T, T>& up, u32 expert,
                                                const u32* rows, const u16* list, int tokens,
                                                u8* memory, T* out) {
    auto* results = reinterpret_cast<float*>(memory + kActivations);
    const int warp = threadIdx.x / 32, g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
    float* own = results + warp % 2 * L::kStaged * kTile + warp / 2 * L::kRows + g;
    __syncthreads();  // activations have been read
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int token = 2 * t + i % 2;
      if (token < L::kStaged) own[token * kTile + i / 2 * 8] = sums[i];
    }
    __syncthreads();
    const int n = blockIdx.x * kTile;
    for (int i = threadIdx.x; i < tokens * kTile; i += C::kThreads) {
      const int token = i / kTile, at = i % kTile;
      if (n + at >= C::N) continue;
      const auto g_value = with_bias<C>(results[i], gate, expert, n + at);
      const auto u_value = with_bias<C>(results[L::kStaged * kTile + i], up, expert, n + at);
      T y = round_to<T>(to_float(activate<C>(g_value, u_value)));
      if (C::kRowIndices && row_of<C>(rows, list[token]) < 0) y = not_a_number<T>();
      out[static_cast<long long>(list[token]) * C::N + n + at] = y;
    }
    __syncthreads();  // before the next tokens overwrite what is staged
  }
};

}  // namespace zmlx
