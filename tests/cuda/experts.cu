// Instances of the kernels that make all of a layer's experts in one launch.

#include "config.cuh"
#include "moe_experts_mma.cuh"
#include "moe_experts_rows.cuh"

using namespace zmlx;

template <class Base, int Threads, int Ring>
struct Launch : Base {
  static constexpr int kThreads = Threads, kRing = Ring, kParts = 132;
};
template <class Base, int Most, int Room, int Pairs, int Experts = 32, int TopK = 4>
struct Tokens : Base {
  static constexpr int kMaxTokens = Most, kTokenRoom = Room, kMaxPairs = Pairs;
  static constexpr int E = Experts, kTopK = TopK;
};

template <class Up, class Down>
__global__ __launch_bounds__(Up::kThreads, 1) void rows(const typename Up::T* x, const u32* w,
                                                        const void* scales, const u32* indices,
                                                        const typename Down::Weight* weights,
                                                        typename Up::T* hidden,
                                                        typename Down::Out* out, u32* counters) {
  using T = typename Up::T;
  using S = typename Select<Up::kFp, u8, T>::type;
  const auto all = experts<S, T>(w, scales, scales);
  MoeExpertsRows<Up, Down>(x, all, all, all, indices, weights, hidden, counters).run(out);
}

template <class Up, class Down>
__global__ __launch_bounds__(Up::kThreads, 1) void mma(const typename Up::T* x, const u32* w,
                                                       const void* scales, const u32* indices,
                                                       const typename Down::Weight* weights,
                                                       typename Up::T* hidden,
                                                       typename Down::Out* out, u32* counters) {
  const auto all = experts<typename Up::T, typename Up::T>(w, scales, scales);
  MoeExpertsMma<Up, Down>(x, all, all, all, indices, weights, hidden, counters, 4).run(out);
}

template <class Up, class Down>
__device__ void instantiate_rows() {
  keep = reinterpret_cast<const void*>(&rows<Up, Down>);
}
template <class Up, class Down>
__device__ void instantiate_mma() {
  keep = reinterpret_cast<const void*>(&mma<Up, Down>);
}

template <typename T, int Bits, int Group, int Width, int Hidden, bool Fp, int Threads, int Ring>
__device__ void instantiate_rows() {
  instantiate_rows<Launch<Config<T, Bits, Group, Width, Hidden, Fp>, Threads, Ring>,
                   Launch<Config<T, Bits, Group, Hidden, Width, Fp>, Threads, Ring>>();
}

using Up = Config<bf16, 4, 64, 2048, 768>;
using Down = Config<bf16, 4, 64, 768, 2048>;
using WideUp = Config<bf16, 4, 64, 2048, 1792>;
using WideDown = Config<bf16, 4, 64, 1792, 2048>;

// The host works shared memory out by itself: tests/cpp/cuda_path_test.cpp has the same numbers.
template <class First, class Second, int Threads, int Ring>
__device__ constexpr int rows_shared() {
  return MoeExpertsRows<Launch<First, Threads, Ring>, Launch<Second, Threads, Ring>>::kShared;
}
static_assert(rows_shared<WideUp, WideDown, 512, 4>() == 106624);
using Wide8 = Config<bf16, 8, 64, 2048, 1792>;
using Back8 = Config<bf16, 8, 64, 1792, 2048>;
static_assert(rows_shared<Wide8, Back8, 512, 4>() == 104576);
using Fp = Config<bf16, 4, 32, 2880, 2880, true>;
static_assert(rows_shared<Fp, Fp, 512, 3>() == 176560);
template <class First, class Second, int Threads, int Ring, int... Sizes>
__device__ constexpr int mma_shared() {
  return MoeExpertsMma<Tokens<Launch<First, Threads, Ring>, Sizes...>,
                       Tokens<Launch<Second, Threads, Ring>, Sizes...>>::kShared;
}
static_assert(mma_shared<Up, Down, 512, 3, 1, 1, 32, 128, 8>() == 198788);
static_assert(mma_shared<WideUp, WideDown, 512, 2, 4, 16, 128, 32, 4>() == 211588);
static_assert(mma_shared<Up, Down, 256, 3, 8, 32, 256, 128, 8>() == 230916);

__device__ void all() {
  instantiate_rows<bf16, 4, 64, 2048, 1792, false, 512, 4>();
  instantiate_rows<bf16, 8, 64, 2048, 1792, false, 512, 4>();
  instantiate_rows<f16, 3, 32, 1056, 544, false, 512, 8>();
  instantiate_rows<bf16, 5, 64, 1024, 512, false, 512, 8>();
  instantiate_rows<bf16, 4, 32, 2880, 2880, true, 512, 3>();
  instantiate_rows<f16, 8, 32, 1024, 512, true, 512, 4>();
  instantiate_mma<Tokens<Launch<Up, 512, 3>, 1, 1, 32, 128, 8>,
                  Tokens<Launch<Down, 512, 3>, 1, 1, 32, 128, 8>>();
  instantiate_mma<Tokens<Launch<WideUp, 512, 2>, 4, 16, 128>,
                  Tokens<Launch<WideDown, 512, 2>, 4, 16, 128>>();
  instantiate_mma<Tokens<Launch<Up, 256, 3>, 8, 32, 256, 128, 8>,
                  Tokens<Launch<Down, 256, 3>, 8, 32, 256, 128, 8>>();
  instantiate_mma<Tokens<Launch<Config<f16, 8, 32, 1088, 576>, 256, 3>, 4, 4, 128>,
                  Tokens<Launch<Config<f16, 8, 32, 576, 1088>, 256, 3>, 4, 4, 128>>();
}
