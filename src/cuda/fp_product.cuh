#pragma once

#include "dequantize.cuh"
#include "experts.cuh"
#include "sum_over_threads.cuh"

/// Products in the order of MLX's `fp_gather_qmv`: float32; a warp makes a row; a lane takes 16
/// bytes of codes at a time, adds their products in two accumulators (fp4: even and odd codes; fp8:
/// the first and second half of each four) per group, and the groups' sums times their scales.
namespace zmlx {

template <class C>
struct FpLayout {
  static constexpr int kThread = C::kBits == 4 ? 32 : 16;  // elements in 16 bytes
  static constexpr int kStep = 32 * kThread;
  static constexpr int kSteps = (C::K + kStep - 1) / kStep;
  static constexpr int kChunks = kThread / 4;   // 16 bytes of float32 x
  static constexpr int kSwizzle = 8 / kChunks;  // keeps staging free of bank conflicts
  static constexpr int kScales = kThread > C::kGroup ? kThread / C::kGroup : 1;
  static constexpr int kShared = kSteps * kStep * 4;  // bytes of one row of x
  static constexpr int kRing = kSteps < C::kRing ? kSteps : C::kRing;
};

/// Puts elements 4 * i and on of row x into shared memory as float32, times the unit that fp4 codes
/// are converted in.
template <class C>
__device__ __forceinline__ void stage_fp_chunk(const typename C::T* x, int i, float4* shared) {
  using L = FpLayout<C>;
  using T = typename C::T;
  constexpr float unit = C::kBits == 4 ? kFp4Unit : 1.0f;
  float4 v;
  if constexpr (sizeof(T) == 4) {
    v = __ldcg(reinterpret_cast<const float4*>(x) + i);
  } else {
    const uint2 pair = __ldcg(reinterpret_cast<const uint2*>(x) + i);
    v = {low<T>(pair.x), high<T>(pair.x), low<T>(pair.y), high<T>(pair.y)};
  }
  v = {v.x * unit, v.y * unit, v.z * unit, v.w * unit};
  const int step = i / (32 * L::kChunks), within = i % (32 * L::kChunks);
  const int lane = within / L::kChunks, chunk = within % L::kChunks;
  shared[(step * L::kChunks + chunk) * 32 + (lane ^ chunk * L::kSwizzle)] = v;
}

/// Products of `R` rows with one row of x by a warp; codes pass through shared memory, as in
/// `LaneProduct`.
template <class C, int R>
class FpProduct {
  using L = FpLayout<C>;

 public:
  static constexpr int kShared = R * L::kRing * 16;  // bytes of a thread
  static constexpr int kSteps = L::kSteps;
  static constexpr int kChunksPerStep = L::kChunks * 32;  // of staged x
  static constexpr bool kCopied = true;
  // As in LaneProduct.
  static constexpr int kBytes = 16, kStride = 32 * 16, kGroups = C::K / C::kGroup;
  using Prepared = float;

  /// @param shared  `kShared` bytes for every thread of the block, for `start` and `run`.
  __device__ __forceinline__ explicit FpProduct(void* shared = nullptr)
      : shared_(static_cast<u8*>(shared)) {}

  template <typename W>
  __device__ __forceinline__ void set_row(int r, const W& experts, u32 expert, int n) {
    w_[r] = reinterpret_cast<const u8*>(experts.w + expert * experts.w_stride) +
            static_cast<long long>(n) * (C::K / 8 * C::kBits) + lane_ * 16;
    scales_[r] = experts.scales + expert * experts.scales_stride + n * (C::K / C::kGroup);
  }

  __device__ __forceinline__ void start() {
#pragma unroll
    for (int s = 0; s < L::kRing; ++s) {
      copy(s);
      commit_copies();
    }
    load_scales(0);
  }

  /// The rows' products, in every lane.
  __device__ __forceinline__ void run(const float4* x, float (&products)[R]) {
    clear();
#pragma unroll(L::kSteps <= 8 ? L::kSteps : 2)
    for (int s = 0; s < L::kSteps; ++s) {
      float scales[R][L::kScales];
#pragma unroll
      for (int r = 0; r < R; ++r) {
#pragma unroll
        for (int i = 0; i < L::kScales; ++i) scales[r][i] = scale_of(next_scale_[r][i]);
      }
      load_scales(s + 1);
      wait_for_copies<L::kRing - 1>();
      if (active(s)) multiply(slot(s), scales, x + s * kChunksPerStep);
      copy(s + L::kRing);
      commit_copies();
    }
    finish(products);
  }

  // The same in pieces, as LaneProduct has them.

  __device__ __forceinline__ const u8* codes(int r) const { return w_[r]; }
  __device__ __forceinline__ int steps() const {
    return (C::K - lane_ * L::kThread + L::kStep - 1) / L::kStep;
  }
  __device__ __forceinline__ const u8* scales(int r) const { return scales_[r]; }

  __device__ __forceinline__ void clear() {
#pragma unroll
    for (int r = 0; r < R; ++r) sums_[r] = 0;
  }

  struct Scales {
    const u8* scales[R];
  };

  __device__ __forceinline__ bool prepare(const Scales& at, Prepared* prepared) const {
#pragma unroll
    for (int r = 0; r < R; ++r) {
#pragma unroll
      for (int i = 0; i < kCeilDiv<kGroups, 32>; ++i) {
        const int g = i * 32 + lane_;
        if (g < kGroups) prepared[r * kGroups + g] = scale_of(at.scales[r][g]);
      }
    }
    return true;
  }

  template <bool>
  __device__ __forceinline__ void step(int s, const u8* codes, const Prepared* prepared,
                                       const float4* x) {
    if ((s + 1) * L::kStep > C::K && !active(s)) return;
    float scales[R][L::kScales];
#pragma unroll
    for (int r = 0; r < R; ++r) {
#pragma unroll
      for (int i = 0; i < L::kScales; ++i) scales[r][i] = prepared[r * kGroups + group_of(s) + i];
    }
    multiply(codes, scales, x + s * kChunksPerStep);
  }

  __device__ __forceinline__ void finish(float (&products)[R]) const {
#pragma unroll
    for (int r = 0; r < R; ++r) products[r] = sums_[r];
    sum_over_threads<32>(products);
  }

 private:
  __device__ __forceinline__ bool active(int step) const {
    return step * L::kStep + lane_ * L::kThread < C::K;
  }

  __device__ __forceinline__ int group_of(int step) const {
    return step * (L::kStep / C::kGroup) + lane_ * L::kThread / C::kGroup;
  }

  __device__ __forceinline__ void load_scales(int s) {
    if (!active(s)) return;
    const int group = group_of(s);
#pragma unroll
    for (int r = 0; r < R; ++r) {
#pragma unroll
      for (int i = 0; i < L::kScales; ++i) next_scale_[r][i] = __ldg(scales_[r] + group + i);
    }
  }

  __device__ __forceinline__ u8* slot(int step) const {
    return shared_ + (step % L::kRing * R * C::kThreads + threadIdx.x) * 16;
  }

  __device__ __forceinline__ void copy(int s) const {
    if (!active(s)) return;
#pragma unroll
    for (int r = 0; r < R; ++r) {
      copy_async16(slot(s) + r * C::kThreads * 16, w_[r] + s * kStride);
    }
  }

  /// @param scales  `kScales` a row, of this thread's codes
  __device__ __forceinline__ void multiply(const u8* from, const float (&scales)[R][L::kScales],
                                           const float4* x) {
    constexpr int kWords = 4 / L::kScales;  // of one scale
    Packed<16> codes[R];
#pragma unroll
    for (int r = 0; r < R; ++r) codes[r].load(from + r * C::kThreads * 16);
#pragma unroll
    for (int i = 0; i < L::kScales; ++i) {
      float even[R], odd[R];
#pragma unroll
      for (int r = 0; r < R; ++r) even[r] = odd[r] = 0;
#pragma unroll
      for (int word = i * kWords; word < (i + 1) * kWords; ++word) {
        if constexpr (C::kBits == 4) {
          const float4 a = chunk_of(x, 2 * word), b = chunk_of(x, 2 * word + 1);
#pragma unroll
          for (int r = 0; r < R; ++r) add_word(codes[r].word[word], a, b, even[r], odd[r]);
        } else {
          const float4 a = chunk_of(x, word);
#pragma unroll
          for (int r = 0; r < R; ++r) add_word(codes[r].word[word], a, even[r], odd[r]);
        }
      }
#pragma unroll
      for (int r = 0; r < R; ++r) {
        sums_[r] = __fmaf_rn(__fadd_rn(even[r], odd[r]), scales[r][i], sums_[r]);
      }
    }
  }

  __device__ __forceinline__ float4 chunk_of(const float4* x, int chunk) const {
    return x[chunk * 32 + (lane_ ^ chunk * L::kSwizzle)];
  }

  static __device__ __forceinline__ void add_word(u32 word, const float4& a, const float4& b,
                                                  float& even, float& odd) {
    float v[8];
    fp4_to_floats(word, v);
    even = __fmaf_rn(v[0], a.x, even);
    odd = __fmaf_rn(v[1], a.y, odd);
    even = __fmaf_rn(v[2], a.z, even);
    odd = __fmaf_rn(v[3], a.w, odd);
    even = __fmaf_rn(v[4], b.x, even);
    odd = __fmaf_rn(v[5], b.y, odd);
    even = __fmaf_rn(v[6], b.z, even);
    odd = __fmaf_rn(v[7], b.w, odd);
  }

  static __device__ __forceinline__ void add_word(u32 word, const float4& a, float& first,
                                                  float& second) {
    first = __fmaf_rn(e4m3_to_float(word & 255), a.x, first);
    first = __fmaf_rn(e4m3_to_float(word >> 8 & 255), a.y, first);
    second = __fmaf_rn(e4m3_to_float(word >> 16 & 255), a.z, second);
    second = __fmaf_rn(e4m3_to_float(word >> 24), a.w, second);
  }

  static __device__ __forceinline__ float scale_of(u8 code) {
    if constexpr (C::kGroup == 16) {
      return e4m3_to_float(code);
    } else {
      return e8m0_to_float(code);
    }
  }

  const int lane_ = threadIdx.x % 32;
  u8* const shared_;
  const u8* w_[R];
  const u8* scales_[R];
  u8 next_scale_[R][L::kScales];
  float sums_[R];
};

}  // namespace zmlx
