#pragma once

#include "dequantize.cuh"
#include "experts.cuh"
#include "sum_over_threads.cuh"

/// Products in the order of MLX's `gather_qmv`: a row has 32 lanes; lane l takes 16 (or 8) elements
/// of every 512 (or 256), one accumulator per element; then a lane adds its accumulators in
/// float32, and the lanes are added pairwise, distances 16, 8, 4, 2, 1.
///
/// Here 16 threads make a row's 32 lanes, two each, so that a load is 16 bytes.
namespace zmlx {

template <class C>
struct LaneLayout {
  using T = typename C::T;
  static constexpr bool kNarrow = sizeof(T) == 2;
  static constexpr int kLane = kNarrow && C::kBits <= 4 ? 16 : 8;  // elements of a lane
  static constexpr int kThread = 2 * kLane;                        // elements of a thread
  static constexpr int kStep = 16 * kThread;
  static constexpr int kSteps = (C::K + kStep - 1) / kStep;
  static constexpr int kChunk = 16 / sizeof(T);     // elements in 16 bytes of x
  static constexpr int kChunks = kThread / kChunk;  // of a thread and step
  static constexpr int kSwizzle = 8 / kChunks;      // keeps staging free of bank conflicts
  static constexpr int kShared = kSteps * kStep * sizeof(T);  // bytes of one row of x
  static constexpr int kBytes = kThread * C::kBits / 8;       // codes of a thread and step
  static constexpr bool kCopied = kBytes % 4 == 0;            // through shared memory
  static constexpr int kRing = kSteps < C::kRing ? kSteps : C::kRing;
  static constexpr int kCodes = kCopied ? kRing * kBytes : 0;  // bytes of a thread and row
  static constexpr bool kByFour = kNarrow && C::kExact && C::kBits == 4;
  static constexpr bool kPairs = kNarrow && C::kExact && C::kBits < 8;
};

/// Puts chunk i of a row into shared memory: the same chunk of all 16 threads side by side.
template <class C>
__device__ __forceinline__ void stage_chunk(int i, uint4 v, uint4* shared) {
  using L = LaneLayout<C>;
  if constexpr (L::kByFour) v = pair_by_four(v);
  const int step = i / (16 * L::kChunks), within = i % (16 * L::kChunks);
  const int thread = within / L::kChunks, chunk = within % L::kChunks;
  shared[(step * L::kChunks + chunk) * 16 + (thread ^ chunk * L::kSwizzle)] = v;
}

/// Copies row x to shared memory.
template <class C>
__device__ __forceinline__ void stage_lanes(const typename C::T* x, uint4* shared) {
  for (int i = threadIdx.x; i < C::K / LaneLayout<C>::kChunk; i += blockDim.x) {
    stage_chunk<C>(i, __ldg(reinterpret_cast<const uint4*>(x) + i), shared);
  }
}

/// Products of `R` rows with one row of x by a half warp. Codes pass through shared memory some
/// steps ahead, where they need no registers.
template <class C, int R>
class LaneProduct {
  using T = typename C::T;
  using L = LaneLayout<C>;

 public:
  static constexpr int kShared = R * L::kCodes;  // bytes of a thread
  static constexpr int kSteps = L::kSteps;
  static constexpr int kChunksPerStep = L::kChunks * 16;  // of staged x
  static constexpr bool kCopied = L::kCopied;             // else `set_row` says where codes are
  static constexpr int kBytes = L::kBytes;                // codes of a thread, row and step
  static constexpr int kStride = 16 * L::kBytes;    // from a thread's codes to the next step's
  static constexpr int kGroups = C::K / C::kGroup;  // of a row
  /// A group's scale and bias, as `step` takes them.
  using Prepared = uint2;

  /// @param shared  `kShared` bytes for every thread of the block, for `start` and `run`.
  __device__ __forceinline__ explicit LaneProduct(void* shared = nullptr)
      : shared_(static_cast<u8*>(shared)) {}

  /// Row `r` of the product: row `n` of an expert's matrix.
  __device__ __forceinline__ void set_row(int r, const Experts<T, T>& experts, u32 expert, int n) {
    constexpr int kGroups = C::K / C::kGroup;
    w_[r] = reinterpret_cast<const u8*>(experts.w + expert * experts.w_stride) +
            static_cast<long long>(n) * (C::K / 8 * C::kBits) + thread_ * L::kBytes;
    scales_[r] = experts.scales + expert * experts.scales_stride + n * kGroups;
    biases_[r] = experts.biases + expert * experts.biases_stride + n * kGroups;
  }

  /// Starts the first copies; to be called before x is waited for.
  __device__ __forceinline__ void start() {
#pragma unroll
    for (int s = 0; s < L::kRing; ++s) {
      copy(s);
      commit_copies();
    }
    load_scales(0);
  }

  /// The rows' products, in every thread of the half warp.
  __device__ __forceinline__ void run(const uint4* x, float (&products)[R]) {
    clear();
#pragma unroll(L::kSteps <= 16 ? L::kSteps : 4)
    for (int s = 0; s < L::kSteps; ++s) {
#pragma unroll
      for (int r = 0; r < R; ++r) scale_[r] = next_scale_[r], bias_[r] = next_bias_[r];
      load_scales(s + 1);
      wait_for_copies<L::kRing - 1>();
      if (active(s)) multiply(s, slot(s), x + s * kChunksPerStep);
      copy(s + L::kRing);
      commit_copies();
    }
    finish(products);
  }

  // The same in pieces, for those who keep codes of several products on their way.

  /// Where this thread's codes of step 0 are, and how many steps it has.
  __device__ __forceinline__ const u8* codes(int r) const { return w_[r]; }
  __device__ __forceinline__ int steps() const {
    return (C::K - thread_ * L::kThread + L::kStep - 1) / L::kStep;
  }
  /// Where the scales and biases of a row begin.
  __device__ __forceinline__ const T* scales(int r) const { return scales_[r]; }
  __device__ __forceinline__ const T* biases(int r) const { return biases_[r]; }

  __device__ __forceinline__ void clear() {
#pragma unroll
    for (int r = 0; r < R; ++r) {
#pragma unroll
      for (int i = 0; i < kSums; ++i) sums_[r][i] = 0;
    }
  }

  /// Where rows' scales and biases begin in shared memory.
  struct Scales {
    const T* scales[R];
    const T* biases[R];
  };

  /// Makes the rows' scales and biases, which the half warp shares out, what `step` takes: one
  /// thread's share costs less than to do so in every step. Returns whether codes of all rows of
  /// the warp are linear, which `step` has to be told.
  __device__ __forceinline__ bool prepare(const Scales& at, Prepared* prepared) const {
    constexpr int kEach = kCeilDiv<kGroups, 16>;
    T scale[R * kEach], bias[R * kEach];
    bool linear = true;
#pragma unroll
    for (int i = 0; i < R * kEach; ++i) {
      const int r = i / kEach, g = i % kEach * 16 + thread_;
      if (kGroups % 16 != 0 && g >= kGroups) continue;
      scale[i] = at.scales[r][g], bias[i] = at.biases[r][g];
      linear &= is_linear(scale[i]);
    }
    linear = kLinear && __all_sync(0xffffffffu, linear);
#pragma unroll
    for (int i = 0; i < R * kEach; ++i) {
      const int r = i / kEach, g = i % kEach * 16 + thread_;
      if (kGroups % 16 == 0 || g < kGroups) {
        prepared[r * kGroups + g] = prepare(scale[i], bias[i], linear);
      }
    }
    return linear;
  }

  /// Adds step s, of which this thread's codes of row r are r * kThreads * kBytes from `codes` on.
  template <bool Linear>
  __device__ __forceinline__ void step(int s, const u8* codes, const Prepared* prepared,
                                       const uint4* x) {
    if ((s + 1) * L::kStep > C::K && !active(s)) return;
    Prepared groups[R];
#pragma unroll
    for (int r = 0; r < R; ++r) groups[r] = prepared[r * kGroups + group_of(s)];
    multiply<Linear>(s, codes, groups, x + s * kChunksPerStep);
  }

  /// The rows' products, in every thread of the half warp.
  __device__ __forceinline__ void finish(float (&products)[R]) const {
    float lanes[2 * R];
#pragma unroll
    for (int r = 0; r < R; ++r) add_lanes(sums_[r], lanes[2 * r], lanes[2 * r + 1]);
    // Lane distances 16, 8, 4, 2 are half that in threads.
    sum_over_threads<16>(lanes);
#pragma unroll
    for (int r = 0; r < R; ++r) products[r] = __fadd_rn(lanes[2 * r], lanes[2 * r + 1]);
  }

 private:
  static constexpr bool kLinear = C::kExact && kHasLinear<T, C::kBits>;
  // Pairs of T, or float32.
  static constexpr int kSums = L::kPairs ? L::kThread / 2 : L::kThread;
  using Sum = typename Select<L::kPairs, u32, float>::type;

  __device__ __forceinline__ bool active(int step) const {
    return step * L::kStep + thread_ * L::kThread < C::K;
  }

  __device__ __forceinline__ int group_of(int step) const {
    return step * (L::kStep / C::kGroup) + thread_ * L::kThread / C::kGroup;
  }

  __device__ __forceinline__ void load_scales(int s) {
    if (!active(s)) return;
    const int group = group_of(s);
#pragma unroll
    for (int r = 0; r < R; ++r) {
      next_scale_[r] = __ldg(scales_[r] + group);
      next_bias_[r] = __ldg(biases_[r] + group);
    }
  }

  // This thread's codes of a step.
  __device__ __forceinline__ u8* slot(int step) const {
    return shared_ + (step % L::kRing * R * C::kThreads + threadIdx.x) * L::kBytes;
  }

  __device__ __forceinline__ void copy(int s) const {
    if constexpr (L::kCopied) {
      if (!active(s)) return;
#pragma unroll
      for (int r = 0; r < R; ++r) {
        copy_async<L::kBytes>(slot(s) + r * C::kThreads * L::kBytes, w_[r] + s * kStride);
      }
    }
  }

  static __device__ __forceinline__ bool is_linear(T scale) {
    if constexpr (kLinear) {
      return zmlx::is_linear(bits_of(scale));
    } else {
      return false;
    }
  }

  static __device__ __forceinline__ Prepared prepare(T scale, T bias, bool linear) {
    if constexpr (L::kNarrow && C::kExact) {
      // What `linear_scale` does; its constants would take registers that attention_heads.cuh has
      // not got.
      u16 bits = bits_of(scale);
      if (kLinear && linear && (bits & 0x7fff)) bits += 133 << 7;
      return {twice(bits), twice(bits_of(bias))};
    } else {
      return {__float_as_uint(to_float(scale)), __float_as_uint(to_float(bias))};
    }
  }

  /// With scales and biases from registers.
  __device__ __forceinline__ void multiply(int s, const u8* codes, const uint4* x) {
    bool linear = kLinear;
#pragma unroll
    for (int r = 0; r < R; ++r) linear &= is_linear(scale_[r]);
    if (kLinear && linear) {
      multiply_as<true>(s, codes, x);
    } else {
      multiply_as<false>(s, codes, x);
    }
  }
  template <bool Linear>
  __device__ __forceinline__ void multiply_as(int s, const u8* codes, const uint4* x) {
    Prepared groups[R];
#pragma unroll
    for (int r = 0; r < R; ++r) groups[r] = prepare(scale_[r], bias_[r], Linear);
    multiply<Linear>(s, codes, groups, x);
  }

  template <bool Linear>
  __device__ __forceinline__ void multiply(int s, const u8* from, const Prepared (&groups)[R],
                                           const uint4* x) {
    Packed<L::kBytes> codes[R];
#pragma unroll
    for (int r = 0; r < R; ++r) {
      codes[r].load(L::kCopied ? from + r * C::kThreads * L::kBytes : w_[r] + s * kStride);
    }
#pragma unroll
    for (int chunk = 0; chunk < L::kChunks; ++chunk) {
      const uint4 v = x[chunk * 16 + (thread_ ^ chunk * L::kSwizzle)];
      const u32 xs[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
      for (int r = 0; r < R; ++r) {
        if constexpr (L::kNarrow && C::kExact) {
          multiply_narrow(codes[r], sums_[r], chunk,
                          Group<T, C::kBits, Linear>(groups[r].x, groups[r].y), xs);
        } else {
          multiply_wide(codes[r], sums_[r], chunk, __uint_as_float(groups[r].x),
                        __uint_as_float(groups[r].y), xs);
        }
      }
    }
  }

  /// Weights rounded to T.
  template <bool Linear>
  static __device__ __forceinline__ void multiply_narrow(const Packed<L::kBytes>& codes,
                                                         Sum (&sums)[kSums], int chunk,
                                                         const Group<T, C::kBits, Linear>& group,
                                                         const u32 (&xs)[4]) {
    // Of more than two rows the second scale would not fit into the registers.
    constexpr bool kAllByFour = L::kByFour && R <= 2;
    u32 fours[4];
    if constexpr (kAllByFour) group.all_by_four(codes.word[chunk], fours);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int at = chunk * 4 + i;
      u32 w;
      if constexpr (kAllByFour) {
        w = fours[i];
      } else if constexpr (L::kByFour) {
        w = group.by_four(codes.word[chunk], 4 * i);
      } else if constexpr (C::kBits == 8) {
        w = group.bytes(__byte_perm(codes.word[at / 2], 0, at % 2 ? 0x4342 : 0x4140));
      } else {
        w = group.pair(codes.template code<C::kBits>(2 * at),
                       codes.template code<C::kBits>(2 * at + 1));
      }
      if constexpr (L::kPairs) {
        sums[at] = fma2<T>(xs[i], w, sums[at]);
      } else {
        sums[2 * at] = __fmaf_rn(low<T>(xs[i]), low<T>(w), sums[2 * at]);
        sums[2 * at + 1] = __fmaf_rn(high<T>(xs[i]), high<T>(w), sums[2 * at + 1]);
      }
    }
  }

  /// Weights in float32.
  static __device__ __forceinline__ void multiply_wide(const Packed<L::kBytes>& codes,
                                                       Sum (&sums)[kSums], int chunk, float scale,
                                                       float bias, const u32 (&xs)[4]) {
    if constexpr (!L::kPairs) {
#pragma unroll
      for (int i = 0; i < L::kChunk; ++i) {
        const int at = chunk * L::kChunk + i;
        float value;
        if constexpr (L::kNarrow) {
          value = i % 2 ? high<T>(xs[i / 2]) : low<T>(xs[i / 2]);
        } else {
          value = __uint_as_float(xs[i]);
        }
        const float q = code_to_float(codes.template code<C::kBits>(at));
        sums[at] = __fmaf_rn(value, __fmaf_rn(q, scale, bias), sums[at]);
      }
    }
  }

  static __device__ __forceinline__ u16 bits_of(T x) {
    if constexpr (L::kNarrow) {
      return *reinterpret_cast<const u16*>(&x);
    } else {
      return 0;
    }
  }

  static __device__ __forceinline__ float element(const Sum (&sums)[kSums], int i) {
    if constexpr (L::kPairs) {
      const int pair = L::kByFour ? i / 8 * 4 + i % 4 : i / 2;
      const bool top = L::kByFour ? i % 8 >= 4 : i % 2;
      return top ? high<T>(sums[pair]) : low<T>(sums[pair]);
    } else {
      return sums[i];
    }
  }

  static __device__ __forceinline__ void add_lanes(const Sum (&sums)[kSums], float& first,
                                                   float& second) {
    first = second = 0;
#pragma unroll
    for (int i = 0; i < L::kLane; ++i) {
      first = __fadd_rn(first, element(sums, i));
      second = __fadd_rn(second, element(sums, L::kLane + i));
    }
  }

  const int thread_ = threadIdx.x % 16;
  u8* const shared_;
  const u8* w_[R];
  const T* scales_[R];
  const T* biases_[R];
  T scale_[R], bias_[R], next_scale_[R], next_bias_[R];
  Sum sums_[R][kSums];
};

}  // namespace zmlx
