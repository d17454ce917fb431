#pragma once

#include "activation.h"

/// From router logits to (indices, weights) of the chosen experts as mlx-lm's sequence of MLX ops
/// computes them. One simdgroup, which is a threadgroup, a row.
namespace zmlx {

/// MLX's `softmax_single_row` of `Size` values in threadgroup memory, in place. MLX has a thread
/// for every four values; here one simdgroup takes the parts of MLX's simdgroups in turn, which
/// changes no sum. Acc is float32 where MLX is asked for a precise softmax.
template <typename Acc, int Size, typename T>
METAL_FUNC void softmax_in_place(threadgroup T* values, uint lane) {
  constexpr int kParts = (Size + 127) / 128;
  Acc at[4 * kParts];
  Acc part_max = Limits<Acc>::min;
#pragma unroll
  for (int part = 0; part < kParts; ++part) {
    Acc largest = Limits<Acc>::finite_min;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int index = (32 * part + static_cast<int>(lane)) * 4 + i;
      const Acc value = index < Size ? static_cast<Acc>(values[index]) : Limits<Acc>::min;
      at[4 * part + i] = value;
      largest = largest < value ? value : largest;
    }
    largest = simd_max(largest);
    if (static_cast<int>(lane) == part) part_max = largest;
  }
  const Acc largest = simd_max(part_max);
  Acc part_sum = static_cast<Acc>(0.0f);
#pragma unroll
  for (int part = 0; part < kParts; ++part) {
    Acc sum = static_cast<Acc>(0.0f);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const Acc e = metal::fast::exp(at[4 * part + i] - largest);
      at[4 * part + i] = e;
      sum += e;
    }
    sum = simd_sum(sum);
    if (static_cast<int>(lane) == part) part_sum = sum;
  }
  const Acc inverse = 1 / simd_sum(part_sum);
#pragma unroll
  for (int part = 0; part < kParts; ++part) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int index = (32 * part + static_cast<int>(lane)) * 4 + i;
      if (index < Size) values[index] = static_cast<T>(at[4 * part + i] * inverse);
    }
  }
}

/// Unsigned integers in the order of MLX's sort: NaN above infinity, both zeros equal. No number
/// has the keys 0 and 1.
METAL_FUNC uint32_t sort_key(float x) {
  if (metal::isnan(x)) return 0xffffffffu;
  const uint32_t bits = as_type<uint32_t>(x == 0.0f ? 0.0f : x);
  return bits >> 31 ? ~bits : bits | 0x80000000u;
}
METAL_FUNC float of_sort_key(uint32_t key) {
  return as_type<float>(key >> 31 ? key & 0x7fffffffu : ~key);
}

/// The router of a configuration C:
/// - types Logit, Score (of the scores and of what follows), Acc (of softmax), Bias, Select (of
///   what experts are selected by) and Weight (of the result);
/// - E, K, kGroups, kDroppedGroups;
/// - kSoftmax, kSigmoid (neither: softmax over the selected), kBias, kGroupMax, kAscending,
///   kRenormalize, kAddsEps, kScales; kOneAxis: whether the logits have one axis alone; kEpsBits,
///   kScaleBits, kFillBits: float32 as integers.
template <class C>
struct MoeRoute {
  using Logit = typename C::Logit;
  using Score = typename C::Score;
  using Select = typename C::Select;
  static constant constexpr const int kMine = (C::E + 31) / 32;
  static constant constexpr const bool kDrop = C::kDroppedGroups > 0;
  static constant constexpr const int kGroupSize = C::E / C::kGroups;

  static METAL_FUNC int expert(int i, uint lane) { return 32 * i + static_cast<int>(lane); }

  static METAL_FUNC void score(const device Logit* logits, threadgroup Score* scores, uint lane) {
#pragma unroll
    for (int i = 0; i < kMine; ++i) {
      const int e = expert(i, lane);
      if (e >= C::E) break;
      const Score x = static_cast<Score>(logits[e]);
      if constexpr (C::kSigmoid) {
        scores[e] = sigmoid(x);
      } else {
        scores[e] = x;
      }
    }
    threadgroup_barrier(mem_flags::mem_threadgroup);
    if constexpr (C::kSoftmax) {
      softmax_in_place<typename C::Acc, C::E>(scores, lane);
      threadgroup_barrier(mem_flags::mem_threadgroup);
    }
  }

  /// 1 if the best C::kGroups - C::kDroppedGroups groups lack this lane's group.
  static METAL_FUNC uint32_t is_dropped(const threadgroup uint32_t* keys, uint lane) {
    const int group = static_cast<int>(lane);
    uint32_t first = 0, second = 0;
    if (group < C::kGroups) {
      for (int i = 0; i < kGroupSize; ++i) {
        // Lanes start at different elements to read different banks.
        const uint32_t key = keys[group * kGroupSize + (i + group) % kGroupSize];
        second = metal::max(second, metal::min(first, key));
        first = metal::max(first, key);
      }
    }
    if constexpr (!C::kGroupMax) {
      const Select a = static_cast<Select>(of_sort_key(second));
      const Select b = static_cast<Select>(of_sort_key(first));
      first = sort_key(static_cast<float>(static_cast<Select>(b + a)));
    }
    int rank = 0;
#pragma unroll
    for (int g = 0; g < C::kGroups; ++g) {
      const uint32_t other = simd_shuffle(first, static_cast<ushort>(g));
      rank += other < first || (other == first && g < group);
    }
    return group < C::kGroups && rank < C::kDroppedGroups;
  }

  /// Replaces the keys, and in kGroupMax the scores, of experts in dropped groups.
  static METAL_FUNC void drop_groups(thread uint32_t* keys, threadgroup Score* scores,
                                     threadgroup uint32_t* shared_keys, uint lane) {
#pragma unroll
    for (int i = 0; i < kMine; ++i) {
      if (expert(i, lane) < C::E) shared_keys[expert(i, lane)] = keys[i];
    }
    threadgroup_barrier(mem_flags::mem_threadgroup);
    const uint32_t dropped = is_dropped(shared_keys, lane);
    const Select fill = static_cast<Select>(as_type<float>(C::kFillBits));
#pragma unroll
    for (int i = 0; i < kMine; ++i) {
      const int e = expert(i, lane);
      const int group = metal::min(e, C::E - 1) / kGroupSize;
      const uint32_t mine = simd_shuffle(dropped, static_cast<ushort>(group));
      if (e >= C::E || !mine) continue;
      keys[i] = sort_key(static_cast<float>(fill));
      if (C::kGroupMax) scores[e] = static_cast<Score>(fill);
    }
    threadgroup_barrier(mem_flags::mem_threadgroup);
  }

  static METAL_FUNC void selection_keys(const device typename C::Bias* bias,
                                        threadgroup Score* scores,
                                        threadgroup uint32_t* shared_keys, thread uint32_t* keys,
                                        uint lane) {
#pragma unroll
    for (int i = 0; i < kMine; ++i) {
      const int e = expert(i, lane);
      keys[i] = 0;
      if (e >= C::E) continue;
      if constexpr (C::kBias) {
        const Select biased = static_cast<Select>(scores[e]) + static_cast<Select>(bias[e]);
        keys[i] = sort_key(static_cast<float>(biased));
      } else {
        keys[i] = sort_key(static_cast<float>(scores[e]));
      }
    }
    if constexpr (kDrop) drop_groups(keys, scores, shared_keys, lane);
    if constexpr (!C::kAscending) {  // MLX sorts negated values, NaN last again
#pragma unroll
      for (int i = 0; i < kMine; ++i) keys[i] = keys[i] == 0xffffffffu ? 1 : keys[i];
    }
  }

  /// The expert of result number `lane`. Of equal values MLX's stable sort puts the lower expert
  /// first; ascending order is read from its end. Keys of 0 are experts that are taken or do not
  /// exist, and as K <= E none is chosen.
  static METAL_FUNC int select(thread uint32_t* keys, uint lane) {
    int mine = 0;
    for (int round = 0; round < C::K; ++round) {
      uint32_t best = 0;
#pragma unroll
      for (int i = 0; i < kMine; ++i) best = metal::max(best, keys[i]);
      best = simd_max(best);
      int found = C::kAscending ? 0 : C::E - 1;
#pragma unroll
      for (int i = 0; i < kMine; ++i) {
        const int e = expert(i, lane);
        if (keys[i] != best || e >= C::E) continue;
        found = C::kAscending ? metal::max(found, e) : metal::min(found, e);
      }
      found = C::kAscending ? simd_max(found) : simd_min(found);
#pragma unroll
      for (int i = 0; i < kMine; ++i) keys[i] = expert(i, lane) == found ? 0 : keys[i];
      const int result = C::kAscending ? C::K - 1 - round : round;
      if (static_cast<int>(lane) == result) mine = found;
    }
    return mine;
  }

  /// The sum of K weights in the order of MLX's sum over the last axis: `row_reduce_small`, or for
  /// an array of one axis `all_reduce`. A single weight is not added to anything.
  static METAL_FUNC Score sum(const threadgroup Score* chosen, uint lane) {
    if (C::K == 1) return chosen[0];
    Score total = static_cast<Score>(0.0f);
    if constexpr (C::kOneAxis) {
      for (int i = 0; i < 4; ++i) {
        const int index = static_cast<int>(lane) * 4 + i;
        if (index < C::K) total = chosen[index] + total;
      }
      return simd_sum(total);
    } else {
      for (int i = 0; i < C::K; ++i) total = chosen[i] + total;
      return total;
    }
  }

  /// @param scores  E elements; chosen: K; keys: E if groups are dropped, else 1.
  static METAL_FUNC void run(const device Logit* logits, const device typename C::Bias* bias,
                             device uint32_t* indices, device typename C::Weight* weights,
                             threadgroup Score* scores, threadgroup Score* chosen,
                             threadgroup uint32_t* shared_keys, uint3 group, uint lane) {
    const long row = group.x;
    score(logits + row * C::E, scores, lane);
    uint32_t keys[kMine];
    selection_keys(bias, scores, shared_keys, keys, lane);
    const int mine = select(keys, lane);

    const bool writes = static_cast<int>(lane) < C::K;
    if (writes) chosen[lane] = scores[mine];
    threadgroup_barrier(mem_flags::mem_threadgroup);
    if constexpr (!C::kSoftmax && !C::kSigmoid) {
      softmax_in_place<typename C::Acc, C::K>(chosen, lane);
      threadgroup_barrier(mem_flags::mem_threadgroup);
    }
    Score weight = writes ? chosen[lane] : static_cast<Score>(0.0f);
    if constexpr (C::kRenormalize) {
      Score divisor = sum(chosen, lane);
      if (C::kAddsEps) divisor = divisor + static_cast<Score>(as_type<float>(C::kEpsBits));
      weight = weight / divisor;
    }
    if (C::kScales) weight = weight * static_cast<Score>(as_type<float>(C::kScaleBits));
    if (!writes) return;
    indices[row * C::K + lane] = static_cast<uint32_t>(mine);
    weights[row * C::K + lane] = static_cast<typename C::Weight>(weight);
  }
};

}  // namespace zmlx
