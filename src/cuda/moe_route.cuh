#pragma once

#include "activation.cuh"

/// From router logits to (indices, weights) of the chosen experts as mlx-lm's sequence of MLX ops
/// computes them. One warp a row.
///
/// Numbers are kept as float32 that a 16-bit type represents; every operation rounds to the type
/// that MLX computes it in. For one sum, product or quotient of two 16-bit numbers this is the same
/// as rounding once (float32 has more than twice their digits).
namespace zmlx {

inline constexpr u32 kAllLanes = 0xffffffffu;

template <typename T>
__device__ __forceinline__ float rounded(float x) {
  return to_float(round_to<T>(x));
}

/// Butterflies give every lane the same bits: each step adds the same two numbers.
template <typename T>
__device__ __forceinline__ float warp_sum(float x) {
#pragma unroll
  for (int distance = 16; distance > 0; distance /= 2) {
    x = rounded<T>(__fadd_rn(x, __shfl_xor_sync(kAllLanes, x, distance)));
  }
  return x;
}
__device__ __forceinline__ float warp_max(float x) {
#pragma unroll
  for (int distance = 16; distance > 0; distance /= 2) {
    x = fmaxf(x, __shfl_xor_sync(kAllLanes, x, distance));
  }
  return x;
}

/// The sum of `at` in the order of a butterfly over as many lanes, the rest of them zero.
template <typename T, int Count>
__device__ __forceinline__ float tree_sum(float (&at)[Count]) {
  constexpr int kHalf = Count > 16 ? 16 : Count > 8 ? 8 : Count > 4 ? 4 : Count > 2 ? 2 : 1;
#pragma unroll
  for (int distance = kHalf; distance > 0; distance /= 2) {
#pragma unroll
    for (int i = 0; i < distance; ++i) {
      if (i + distance < Count) at[i] = rounded<T>(__fadd_rn(at[i], at[i + distance]));
    }
  }
  return at[0];
}

/// `exp` of MLX's softmax.
template <typename Acc>
__device__ __forceinline__ float softmax_exp(float x, float max) {
  return rounded<Acc>(__expf(rounded<Acc>(__fsub_rn(x, max))));
}

template <typename T>
__device__ __forceinline__ float lowest() {
  if constexpr (same<T, f16>) {
    return -65504.0f;
  } else {
    return __int_as_float(same<T, bf16> ? 0xff7f0000 : 0xff7fffff);
  }
}

/// How MLX's softmax hands a row of `Size` elements of type T to its threads: thread t reads
/// kReads of them from t * kReads on. A warp here plays kWarps of MLX's, one after the other.
template <typename T, int Size>
struct SoftmaxRow {
  static constexpr int kReads = 16 / sizeof(T);
  static constexpr int kWarps = (Size + 32 * kReads - 1) / (32 * kReads);
  float at[kWarps][kReads];

  static __device__ __forceinline__ int index(int warp, int i) {
    return (32 * warp + static_cast<int>(threadIdx.x)) * kReads + i;
  }

  /// From `get(index)`; elements that do not exist are -infinity.
  template <typename Get>
  __device__ __forceinline__ void load(Get get) {
#pragma unroll
    for (int w = 0; w < kWarps; ++w) {
#pragma unroll
      for (int i = 0; i < kReads; ++i) {
        at[w][i] = index(w, i) < Size ? get(index(w, i)) : __int_as_float(0xff800000);
      }
    }
  }

  __device__ __forceinline__ void store(float* out) const {
#pragma unroll
    for (int w = 0; w < kWarps; ++w) {
#pragma unroll
      for (int i = 0; i < kReads; ++i) {
        if (index(w, i) < Size) out[index(w, i)] = at[w][i];
      }
    }
  }

  /// In place. Acc is float32 where MLX is asked for a precise softmax.
  template <typename Acc>
  __device__ __forceinline__ void softmax() {
    float warps_max[kWarps], sum[kWarps];
    float max = __int_as_float(0xff800000);
#pragma unroll
    for (int w = 0; w < kWarps; ++w) {
      float mine = lowest<Acc>();
#pragma unroll
      for (int i = 0; i < kReads; ++i) mine = fmaxf(mine, at[w][i]);
      sum[w] = 0;
#pragma unroll
      for (int i = 0; i < kReads; ++i) {
        sum[w] = rounded<Acc>(__fadd_rn(sum[w], softmax_exp<Acc>(at[w][i], mine)));
      }
      warps_max[w] = warp_max(mine);
      sum[w] = rounded<Acc>(__fmul_rn(sum[w], softmax_exp<Acc>(mine, warps_max[w])));
      sum[w] = warp_sum<Acc>(sum[w]);
      max = fmaxf(max, warps_max[w]);
    }
#pragma unroll
    for (int w = 0; w < kWarps; ++w) {
      sum[w] = rounded<Acc>(__fmul_rn(sum[w], softmax_exp<Acc>(warps_max[w], max)));
    }
    const float inverse = rounded<Acc>(__fdiv_rn(1.0f, tree_sum<Acc>(sum)));
#pragma unroll
    for (int w = 0; w < kWarps; ++w) {
#pragma unroll
      for (int i = 0; i < kReads; ++i) {
        const float e = softmax_exp<Acc>(at[w][i], max);
        at[w][i] = rounded<T>(rounded<Acc>(__fmul_rn(e, inverse)));
      }
    }
  }
};

template <typename T>
__device__ __forceinline__ float quotient(float a, float b) {
  if constexpr (same<T, float>) {
    return __fdiv_rn(a, b);
  } else {
    return to_float(round_to<T>(a) / round_to<T>(b));
  }
}

/// Unsigned integers in the order of MLX's sort: NaN above infinity, both zeros equal. No number
/// has the keys 0 and 1.
__device__ __forceinline__ u32 sort_key(float x) {
  if (x != x) return 0xffffffffu;
  const u32 bits = __float_as_uint(x == 0.0f ? 0.0f : x);
  return bits >> 31 ? ~bits : bits | 0x80000000u;
}
__device__ __forceinline__ float of_sort_key(u32 key) {
  return __uint_as_float(key >> 31 ? key & 0x7fffffffu : ~key);
}

/// The router of a configuration C:
/// - types Logit, Score (of the scores and of what follows), Acc (of softmax), Bias, Select (of
///   what experts are selected by) and Weight (of the result);
/// - E, K, kGroups, kDroppedGroups, kSumReads (elements that a thread of MLX's sum reads);
/// - kSoftmax, kSigmoid (neither: softmax over the selected), kBias, kGroupMax, kAscending,
///   kRenormalize; kEpsBits, kScaleBits, kFillBits: float32 as integers.
template <class C>
struct MoeRoute {
  using Logit = typename C::Logit;
  using Score = typename C::Score;
  using Select = typename C::Select;
  static constexpr int E = C::E, K = C::K, kMine = (E + 31) / 32;
  static constexpr bool kDrop = C::kDroppedGroups > 0;
  static constexpr int kGroupSize = E / C::kGroups;
  static_assert(K <= 32 && C::kGroups <= 32);

  struct Shared {
    float scores[E];
    float chosen[K];
    u32 keys[kDrop ? E : 1];
  };

  static __device__ __forceinline__ int expert(int i) {
    return 32 * i + static_cast<int>(threadIdx.x);
  }

  static __device__ __forceinline__ void score(const Logit* logits, float* scores) {
    const auto get = [&](int e) { return rounded<Score>(to_float(logits[e])); };
    if constexpr (C::kSoftmax) {
      SoftmaxRow<Score, E> row;
      row.load(get);
      row.template softmax<typename C::Acc>();
      row.store(scores);
    } else {
#pragma unroll
      for (int i = 0; i < kMine; ++i) {
        if (expert(i) >= E) break;
        const float x = get(expert(i));
        scores[expert(i)] = C::kSigmoid ? to_float(sigmoid(round_to<Score>(x))) : x;
      }
    }
    __syncwarp();
  }

  /// Bit g: the best C::kGroups - C::kDroppedGroups groups lack g. Lane g looks at group g.
  static __device__ __forceinline__ u32 dropped_groups(const u32* keys) {
    const int group = threadIdx.x;
    u32 first = 0, second = 0;
    if (group < C::kGroups) {
      for (int i = 0; i < kGroupSize; ++i) {
        // Lanes start at different elements to read different banks.
        const u32 key = keys[group * kGroupSize + (i + group) % kGroupSize];
        second = max(second, min(first, key));
        first = max(first, key);
      }
    }
    if constexpr (!C::kGroupMax) {
      first = sort_key(rounded<Select>(__fadd_rn(of_sort_key(second), of_sort_key(first))));
    }
    int rank = 0;
#pragma unroll
    for (int g = 0; g < C::kGroups; ++g) {
      const u32 other = __shfl_sync(kAllLanes, first, g);
      rank += other < first || (other == first && g < group);
    }
    return __ballot_sync(kAllLanes, group < C::kGroups && rank < C::kDroppedGroups);
  }

  /// Replaces the keys, and in kGroupMax the scores, of experts in dropped groups.
  static __device__ __forceinline__ void drop_groups(u32 (&keys)[kMine], Shared& shared) {
#pragma unroll
    for (int i = 0; i < kMine; ++i) {
      if (expert(i) < E) shared.keys[expert(i)] = keys[i];
    }
    __syncwarp();
    const u32 dropped = dropped_groups(shared.keys);
    const float fill = rounded<Select>(__int_as_float(C::kFillBits));
#pragma unroll
    for (int i = 0; i < kMine; ++i) {
      if (expert(i) >= E || !(dropped >> expert(i) / kGroupSize & 1)) continue;
      keys[i] = sort_key(fill);
      if (C::kGroupMax) shared.scores[expert(i)] = fill;
    }
    __syncwarp();
  }

  static __device__ __forceinline__ void selection_keys(const typename C::Bias* bias,
                                                        Shared& shared, u32 (&keys)[kMine]) {
#pragma unroll
    for (int i = 0; i < kMine; ++i) {
      keys[i] = 0;
      if (expert(i) >= E) break;
      float value = shared.scores[expert(i)];
      if (C::kBias) value = rounded<Select>(__fadd_rn(value, to_float(bias[expert(i)])));
      keys[i] = sort_key(value);
    }
    if constexpr (kDrop) drop_groups(keys, shared);
    if constexpr (!C::kAscending) {  // MLX sorts negated values, NaN last again
#pragma unroll
      for (int i = 0; i < kMine; ++i) keys[i] = keys[i] == 0xffffffffu ? 1 : keys[i];
    }
  }

  /// The expert of result number `lane`. Of equal values MLX's stable sort puts the lower expert
  /// first; ascending order is read from its end. Keys of 0 are experts that are taken or do not
  /// exist, and as K <= E none is chosen.
  static __device__ __forceinline__ int select(u32 (&keys)[kMine]) {
    int mine = 0;
#pragma unroll 1
    for (int round = 0; round < K; ++round) {
      u32 best = 0;
#pragma unroll
      for (int i = 0; i < kMine; ++i) best = max(best, keys[i]);
      best = __reduce_max_sync(kAllLanes, best);
      u32 found = C::kAscending ? 0 : E - 1;
#pragma unroll
      for (int i = 0; i < kMine; ++i) {
        if (keys[i] != best || expert(i) >= E) continue;
        found = C::kAscending ? max(found, u32(expert(i))) : min(found, u32(expert(i)));
      }
      found = C::kAscending ? __reduce_max_sync(kAllLanes, found)
                            : __reduce_min_sync(kAllLanes, found);
#pragma unroll
      for (int i = 0; i < kMine; ++i) keys[i] = expert(i) == found ? 0 : keys[i];
      if (threadIdx.x == (C::kAscending ? K - 1 - round : round)) mine = found;
    }
    return mine;
  }

  /// The sum over the first K lanes in the order of MLX's sum over a row's last axis.
  static __device__ __forceinline__ float sum(float x) {
    constexpr int kThreads = (K + C::kSumReads - 1) / C::kSumReads;
    float at[kThreads];
#pragma unroll
    for (int t = 0; t < kThreads; ++t) {
      at[t] = 0;
#pragma unroll
      for (int i = 0; i < C::kSumReads; ++i) {
        const int element = t * C::kSumReads + i;
        if (element >= K) break;
        at[t] = rounded<Score>(__fadd_rn(at[t], __shfl_sync(kAllLanes, x, element)));
      }
    }
    return tree_sum<Score>(at);
  }

  static __device__ __forceinline__ float softmax_of_chosen(float x, Shared& shared) {
    if (threadIdx.x < K) shared.chosen[threadIdx.x] = x;
    __syncwarp();
    SoftmaxRow<Score, K> row;
    row.load([&](int i) { return shared.chosen[i]; });
    row.template softmax<typename C::Acc>();
    __syncwarp();
    row.store(shared.chosen);
    __syncwarp();
    return threadIdx.x < K ? shared.chosen[threadIdx.x] : 0;
  }

  static __device__ __forceinline__ void run(const Logit* logits, const typename C::Bias* bias,
                                             u32* indices, typename C::Weight* weights) {
    const long long row = blockIdx.x;
    run_row(logits + row * E, bias, indices + row * K, weights + row * K);
  }

  /// One row, by the first warp of a block.
  static __device__ __forceinline__ void run_row(const Logit* logits, const typename C::Bias* bias,
                                                 u32* indices, typename C::Weight* weights) {
    __shared__ Shared shared;
    score(logits, shared.scores);
    u32 keys[kMine];
    selection_keys(bias, shared, keys);
    const int chosen = select(keys);

    float weight = shared.scores[chosen];
    if (!C::kSoftmax && !C::kSigmoid) weight = softmax_of_chosen(weight, shared);
    if (C::kRenormalize) {
      const float eps = rounded<Score>(__int_as_float(C::kEpsBits));
      weight = quotient<Score>(weight, rounded<Score>(__fadd_rn(sum(weight), eps)));
    }
    const float scale = rounded<Score>(__int_as_float(C::kScaleBits));
    weight = rounded<Score>(__fmul_rn(weight, scale));
    if (threadIdx.x >= K) return;
    indices[threadIdx.x] = chosen;
    weights[threadIdx.x] = round_to<typename C::Weight>(weight);
  }
};

}  // namespace zmlx
