// Instances of the kernels of one decoded token.

#include "attention_heads.cuh"
#include "keep.cuh"
#include "norm_route.cuh"
#include "short_conv.cuh"

using namespace zmlx;

template <typename Type, int Bits, int Width, int Threads, bool AddNorm>
struct Row {
  using T = Type;
  static constexpr int kBits = Bits, kGroup = 64, K = Width, kThreads = Threads, kRing = 4;
  static constexpr int kNormThreads = 128;
  static constexpr float kNormEps = 1e-5f;
  static constexpr bool kExact = true, kAddNorm = AddNorm;
};

template <typename Type, int Bits, int Dim, bool Norm>
struct Heads : Row<Type, Bits, 2048, 4 * Dim, Norm> {
  static constexpr int kHeadDim = Dim, kHeads = 32, kKvHeads = 4;
  static constexpr float kLogBase = 13.28f, kRopeScale = 1.0f, kQueryEps = 1e-6f, kKeyEps = 1e-6f;
  static constexpr bool kHeadNorm = Norm;
};
template <class C>
__global__ __launch_bounds__(C::kThreads, 1) void heads(typename C::T* x, const u32* w,
                                                        int position) {
  const auto q = layer<typename C::T>(w, x, x);
  AttentionHeads<C>::run({x, x, x}, {q, q, q, x, x}, {x, x, x, x}, position, 256);
}

template <typename Type, int Bits, bool Norm>
struct Conv : Row<Type, Bits, 2048, 128, Norm> {
  static constexpr int kChannels = 2048, kTaps = 3;
};
template <class C>
__global__ __launch_bounds__(C::kThreads, 1) void conv(typename C::T* x, const u32* w) {
  ShortConv<C>::run({x, x, x}, layer<typename C::T>(w, x, x), x, x, x, x, x);
}

template <int Bits>
struct Router : Row<bf16, Bits, 2048, 128, true> {
  static constexpr int kRing = 8;
};
template <int Experts, int TopK>
struct Softmax {
  using Logit = bf16;
  using Score = bf16;
  using Acc = float;
  using Bias = float;
  using Select = bf16;
  using Weight = bf16;
  static constexpr int E = Experts, K = TopK, kGroups = 1, kDroppedGroups = 0, kSumReads = 8;
  static constexpr int kEpsBits = 0, kScaleBits = 0x3f800000, kFillBits = 0;
  static constexpr bool kSoftmax = true, kSigmoid = false, kBias = false, kGroupMax = false;
  static constexpr bool kAscending = true, kRenormalize = true;
};
template <class C, class Route>
__global__ __launch_bounds__(C::kThreads, 1) void route(bf16* x, const u32* w, u32* indices) {
  NormRoute<C, Route>::run({x, x, x}, layer<bf16>(w, x, x), nullptr, x, x, indices, x, indices);
}

// The host works shared memory out by itself: tests/cpp/cuda_path_test.cpp has the same numbers.
static_assert(AttentionHeads<Heads<bf16, 4, 128, true>>::kShared == 135936);
static_assert(ShortConv<Conv<bf16, 4, true>>::kShared == 28672);
static_assert(NormRoute<Router<8>, Softmax<128, 8>>::kShared == 20736);

__device__ void all() {
  keep = reinterpret_cast<const void*>(&heads<Heads<bf16, 4, 128, true>>);
  keep = reinterpret_cast<const void*>(&heads<Heads<f16, 8, 64, false>>);
  keep = reinterpret_cast<const void*>(&heads<Heads<bf16, 6, 96, true>>);
  keep = reinterpret_cast<const void*>(&conv<Conv<bf16, 4, true>>);
  keep = reinterpret_cast<const void*>(&conv<Conv<f16, 8, false>>);
  keep = reinterpret_cast<const void*>(&route<Router<8>, Softmax<128, 8>>);
  keep = reinterpret_cast<const void*>(&route<Router<4>, Softmax<32, 4>>);
}
