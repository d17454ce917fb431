#pragma once

#include "dequantize.cuh"
#include "experts.cuh"

/// Products in the order of MLX's `fp_gather_qmv`: float32; a warp makes a row; a lane takes 16
/// bytes of codes at a time, adds their products in two accumulators (fp4: even and odd codes; fp8:
/// the first and second half of each four) per group, and the groups' sums times their scales.
namespace zmlx {

template <class C>
struct FpLayout {
  static constexpr int kThread = C::kBits == 4 ? 32 : 16;  // elements in 16 bytes
  static constexpr int kStep = 32 * kThread;
  static constexpr int kSteps = (C::K + kStep - 1) / kStep;
  static constexpr int kChunks = kThread / 4;  // 16 bytes of float32 x
  static constexpr int kScales = kThread > C::kGroup ? kThread / C::kGroup : 1;
  static constexpr int kShared = kSteps * kStep * 4;  // bytes of one row of x
};

/// Copies row x to shared memory as float32, times the unit that fp4 codes are converted in.
template <class C>
__device__ __forceinline__ void stage_fp(const typename C::T* x, float4* shared) {
  using L = FpLayout<C>;
  using T = typename C::T;
  constexpr float unit = C::kBits == 4 ? kFp4Unit : 1.0f;
  for (int i = threadIdx.x; i < C::K / 4; i += blockDim.x) {
    float4 v;
    if constexpr (sizeof(T) == 4) {
      v = __ldg(reinterpret_cast<const float4*>(x) + i);
    } else {
      const uint2 pair = __ldg(reinterpret_cast<const uint2*>(x) + i);
      v = {low<T>(pair.x), high<T>(pair.x), low<T>(pair.y), high<T>(pair.y)};
    }
    v = {v.x * unit, v.y * unit, v.z * unit, v.w * unit};
    const int step = i / (32 * L::kChunks), within = i % (32 * L::kChunks);
    shared[(step * L::kChunks + within % L::kChunks) * 32 + within / L::kChunks] = v;
  }
}

/// Products of `R` rows with one row of x by a warp.
template <class C, int R>
class FpProduct {
  using L = FpLayout<C>;
  static constexpr int kRing = 3;  // steps in flight

  struct Step {
    uint4 codes[R];
    u8 scale[R][L::kScales];
  };

 public:
  template <typename W>
  __device__ __forceinline__ void set_row(int r, const W& experts, u32 expert, int n) {
    w_[r] = reinterpret_cast<const u8*>(experts.w + expert * experts.w_stride) +
            static_cast<long long>(n) * (C::K / 8 * C::kBits) + lane_ * 16;
    scales_[r] = experts.scales + expert * experts.scales_stride + n * (C::K / C::kGroup);
  }

  __device__ __forceinline__ void start() {
#pragma unroll
    for (int j = 0; j < kRing; ++j) load(ring_[j], j);
  }

  /// The rows' products, in every lane.
  __device__ __forceinline__ void run(const float4* x, float (&products)[R]) {
#pragma unroll
    for (int r = 0; r < R; ++r) products[r] = 0;
    for (int s = 0; s < L::kSteps; s += kRing) {
#pragma unroll
      for (int j = 0; j < kRing; ++j) {
        if (active(s + j)) multiply(ring_[j], x + (s + j) * L::kChunks * 32 + lane_, products);
        load(ring_[j], s + j + kRing);
      }
    }
#pragma unroll
    for (int distance = 16; distance > 0; distance /= 2) {
#pragma unroll
      for (int r = 0; r < R; ++r) {
        products[r] =
            __fadd_rn(products[r], __shfl_xor_sync(0xffffffffu, products[r], distance));
      }
    }
  }

 private:
  __device__ __forceinline__ bool active(int step) const {
    return step * L::kStep + lane_ * L::kThread < C::K;
  }

  __device__ __forceinline__ void load(Step& step, int s) {
    if (!active(s)) return;
    const int group = (s * L::kStep + lane_ * L::kThread) / C::kGroup;
#pragma unroll
    for (int r = 0; r < R; ++r) {
      step.codes[r] = load_once16(w_[r] + s * 512);
#pragma unroll
      for (int i = 0; i < L::kScales; ++i) step.scale[r][i] = __ldg(scales_[r] + group + i);
    }
  }

  __device__ __forceinline__ void multiply(const Step& step, const float4* x,
                                           float (&products)[R]) {
    constexpr int kWords = 4 / L::kScales;  // of one scale
#pragma unroll
    for (int i = 0; i < L::kScales; ++i) {
      float even[R], odd[R];
#pragma unroll
      for (int r = 0; r < R; ++r) even[r] = odd[r] = 0;
#pragma unroll
      for (int word = i * kWords; word < (i + 1) * kWords; ++word) {
        if constexpr (C::kBits == 4) {
          const float4 a = x[2 * word * 32], b = x[(2 * word + 1) * 32];
#pragma unroll
          for (int r = 0; r < R; ++r) add_word(word_of(step.codes[r], word), a, b, even[r], odd[r]);
        } else {
          const float4 a = x[word * 32];
#pragma unroll
          for (int r = 0; r < R; ++r) add_word(word_of(step.codes[r], word), a, even[r], odd[r]);
        }
      }
#pragma unroll
      for (int r = 0; r < R; ++r) {
        products[r] = __fmaf_rn(__fadd_rn(even[r], odd[r]), scale_of(step.scale[r][i]), products[r]);
      }
    }
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

  static __device__ __forceinline__ u32 word_of(const uint4& v, int i) {
    return i == 0 ? v.x : i == 1 ? v.y : i == 2 ? v.z : v.w;
  }

  const int lane_ = threadIdx.x % 32;
  const u8* w_[R];
  const u8* scales_[R];
  Step ring_[kRing];
};

}  // namespace zmlx
