// Instances of the router.

#include "keep.cuh"
#include "moe_route.cuh"

using namespace zmlx;

template <typename L, typename S, typename A, int Experts, int TopK>
struct Softmax {
  using Logit = L;
  using Score = S;
  using Acc = A;
  using Bias = float;
  using Select = S;
  using Weight = S;
  static constexpr int E = Experts, K = TopK, kGroups = 1, kDroppedGroups = 0;
  static constexpr int kSumReads = 16 / sizeof(S), kEpsBits = 0, kScaleBits = 0x3f800000;
  static constexpr int kFillBits = 0;
  static constexpr bool kSoftmax = true, kSigmoid = false, kBias = false, kGroupMax = false;
  static constexpr bool kAscending = true, kRenormalize = true;
};

template <class Base>
struct OverChosen : Base {
  static constexpr bool kSoftmax = false, kRenormalize = false;
};

template <class Base, int Groups, bool Max>
struct Grouped : Base {
  static constexpr int kGroups = Groups, kDroppedGroups = Groups / 2;
  static constexpr bool kGroupMax = Max, kAscending = false;
};

template <class Base>
struct BiasedSigmoid : Base {
  using Select = float;
  using Weight = bf16;
  static constexpr bool kSoftmax = false, kSigmoid = true, kBias = true;
};

template <class C>
__global__ void route(const typename C::Logit* logits, const typename C::Bias* bias, u32* indices,
                      typename C::Weight* weights) {
  MoeRoute<C>::run(logits, bias, indices, weights);
}

template <class C>
__device__ void instantiate() {
  keep = reinterpret_cast<const void*>(&route<C>);
}

__device__ void all() {
  instantiate<Softmax<bf16, bf16, float, 128, 8>>();
  instantiate<Softmax<bf16, float, float, 512, 10>>();
  instantiate<Softmax<f16, f16, f16, 64, 6>>();
  instantiate<Softmax<float, float, float, 1024, 32>>();
  instantiate<OverChosen<Softmax<bf16, bf16, float, 32, 4>>>();
  instantiate<OverChosen<Softmax<bf16, bf16, bf16, 129, 32>>>();
  instantiate<BiasedSigmoid<Softmax<bf16, bf16, float, 32, 4>>>();
  instantiate<Grouped<BiasedSigmoid<Softmax<bf16, float, float, 256, 8>>, 8, false>>();
  instantiate<Grouped<Softmax<bf16, bf16, float, 160, 6>, 8, true>>();
}
