#pragma once

#include "experts.cuh"
#include "keep.cuh"

/// The constants of a kernel as the library writes them, for instances that are only compiled.
template <typename Type, int Bits, int Group, int Inner, int Outer, bool Fp = false,
          bool Exact = true, typename WeightType = Type>
struct Config {
  using T = Type;
  using Intermediate = typename zmlx::Select<Exact, Type, float>::type;
  using Weight = WeightType;
  using Sum = typename zmlx::Select<Exact, WeightType, float>::type;
  using Out = WeightType;
  static constexpr int kBits = Bits, kGroup = Group, K = Inner, N = Outer, E = 32, kTopK = 4;
  static constexpr int kThreads = 256, kRing = 3, kMaxTokens = 8, kMaxPairs = 128, kRows = 4;
  static constexpr int kIndexTokenStride = 4, kIndexSlotStride = 1;
  static constexpr int kWeightTokenStride = 4, kWeightSlotStride = 1;
  static constexpr bool kExact = Exact, kFp = Fp, kRowIndices = false, kRowPerToken = true;
  static constexpr bool kClamped = Fp;
  static constexpr float kAlpha = 1.702f, kLimit = 7.0f;
};

template <typename S, typename T>
__device__ zmlx::Experts<S, T> experts(const zmlx::u32* w, const void* scales, const void* bias) {
  return {w,
          static_cast<const S*>(scales),
          static_cast<const T*>(bias),
          static_cast<const T*>(bias),
          1024,
          64,
          64,
          64};
}
