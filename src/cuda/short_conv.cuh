#pragma once

#include "dense_row.cuh"

namespace zmlx {

/// LFM2's short convolution of one token up to its last product: B, C, x = split(in_proj(row));
/// C * conv(state, B * x), and the state that follows. MLX runs `qmv`, an element-wise product,
/// cuDNN's depthwise convolution (float32, taps in order), and another product.
///
/// Three rows, which make one channel, are multiplied by a half warp.
template <class C>
struct ShortConv {
  using T = typename C::T;
  using Product = LaneProduct<C, 3>;
  static constexpr int kStaged = LaneLayout<C>::kShared;
  static constexpr int kShared = kStaged + C::kThreads * Product::kShared;

  /// `state` (C::kTaps - 1, C::kChannels), oldest first; `taps` (C::kChannels, C::kTaps).
  static __device__ __forceinline__ void run(const RowInput<T>& input, const Experts<T, T>& in_proj,
                                             const T* state, const T* taps, T* out, T* next_state,
                                             T* sum) {
    extern __shared__ uint4 shared[];
    const int channel = blockIdx.x * (C::kThreads / 16) + threadIdx.x / 16;
    Product product(shared + kStaged / 16);
#pragma unroll
    for (int part = 0; part < 3; ++part) {
      product.set_row(part, in_proj, 0, part * C::kChannels + min(channel, C::kChannels - 1));
    }
    product.start();
    stage_row<C>(input, blockIdx.x == 0 ? sum : nullptr, nullptr, shared);
    __syncthreads();
    float parts[3];
    product.run(shared, parts);
    if (threadIdx.x % 16 != 0 || channel >= C::kChannels) return;

    const T last = mul(round_to<T>(parts[0]), round_to<T>(parts[2]));
    float conv = 0;
#pragma unroll
    for (int tap = 0; tap < C::kTaps; ++tap) {
      const T value = tap < C::kTaps - 1 ? state[tap * C::kChannels + channel] : last;
      conv = __fmaf_rn(to_float(value), to_float(taps[channel * C::kTaps + tap]), conv);
      if (tap > 0) next_state[(tap - 1) * C::kChannels + channel] = value;
    }
    out[channel] = mul(round_to<T>(parts[1]), round_to<T>(conv));
  }
};

}  // namespace zmlx
