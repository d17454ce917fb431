// Which CUDA kernel takes a call: decided on the host, so tested without a GPU.

#include "fast/cuda_path.h"

#include <gtest/gtest.h>

#include "fast/dense_row.h"
#include "fast/moe_experts.h"

#include "mlx/ops.h"
#include "mlx/transforms.h"

namespace zmlx::fast {
namespace {

CudaCall call(const char* mode, int bits, int group, int N, int K, int tokens, int top_k,
              mx::Dtype type = mx::bfloat16, bool exact = true, int capability = 90) {
  return {{mode, group, bits}, type, N, K, 32, tokens, top_k, exact, capability};
}

TEST(CudaPath, FollowsMatrixVectorOrderBelowEightPairs) {
  for (int bits : {2, 3, 4, 5, 6, 8}) {
    const auto plan = plan_swiglu(call("affine", bits, 64, 1792, 2048, 1, 4));
    EXPECT_EQ(plan.obstacle, "");
    EXPECT_EQ(plan.product, CudaProduct::lanes);
  }
}

TEST(CudaPath, FollowsTensorCoreOrderFromEightPairs) {
  for (auto [tokens, top_k] : {std::pair{1, 8}, {2, 4}, {32, 8}}) {
    for (int bits : {4, 8}) {
      const auto c = call("affine", bits, 64, 768, 2048, tokens, top_k);
      EXPECT_EQ(plan_swiglu(c).product, CudaProduct::mma);
      EXPECT_EQ(plan_swiglu(c).obstacle, "");
      EXPECT_EQ(plan_combine(c, 2).product, CudaProduct::mma);
      EXPECT_EQ(plan_combine(c, 2).obstacle, "");
    }
  }
  EXPECT_EQ(plan_swiglu(call("affine", 4, 64, 768, 2048, 7, 1)).product, CudaProduct::lanes);
}

TEST(CudaPath, FallsThroughWhereMlxRunsWhatIsNotFollowed) {
  EXPECT_NE(plan_swiglu(call("affine", 3, 64, 768, 2048, 2, 4)).obstacle, "");
  EXPECT_NE(plan_swiglu(call("affine", 4, 64, 768, 2048, 2, 4, mx::float32)).obstacle, "");
  EXPECT_NE(plan_swiglu(call("affine", 4, 64, 760, 2048, 2, 4)).obstacle, "");
  EXPECT_NE(plan_swiglu(call("mxfp4", 4, 32, 768, 256, 1, 4)).obstacle, "");
  // Sorted by mlx-lm, four pairs an expert: MLX takes its kernel for sorted experts.
  EXPECT_NE(plan_swiglu(call("mxfp4", 4, 32, 1792, 2048, 32, 4)).obstacle, "");
  EXPECT_EQ(plan_swiglu(call("mxfp4", 4, 32, 2880, 2880, 32, 4)).obstacle, "");
}

TEST(CudaPath, TakesOddRowsByLanes) {
  // Groups of 32 in rows that tiles of 64 do not divide: MLX multiplies them vector by vector.
  const auto plan = plan_swiglu(call("affine", 4, 32, 544, 1056, 8, 4));
  EXPECT_EQ(plan.obstacle, "");
  EXPECT_EQ(plan.product, CudaProduct::lanes);
}

TEST(CudaPath, FloatSumsTakeEveryFormat) {
  for (auto [mode, bits, group] : {std::tuple{"affine", 3, 64},
                                   {"affine", 8, 128},
                                   {"mxfp4", 4, 32},
                                   {"mxfp8", 8, 32},
                                   {"nvfp4", 4, 16}}) {
    for (int tokens : {1, 16}) {
      const auto c = call(mode, bits, group, 512, 1024, tokens, 4, mx::bfloat16, false);
      EXPECT_EQ(plan_swiglu(c).obstacle, "");
      EXPECT_EQ(plan_combine(c, 4).obstacle, "");
    }
  }
}

TEST(CudaPath, WorksOutTheKernelsSharedMemory) {
  // tests/cuda has the same numbers, from the kernels themselves.
  auto one = call("affine", 4, 64, 768, 2048, 1, 8);
  one.experts = 128;
  EXPECT_EQ(plan_swiglu(one).shared_memory, 24640);
  std::swap(one.N, one.K);
  EXPECT_EQ(plan_combine(one, 2).shared_memory, 71812);
  EXPECT_EQ(plan_swiglu(call("affine", 4, 64, 1792, 2048, 32, 4)).shared_memory, 98560);
  EXPECT_EQ(plan_combine(call("affine", 4, 64, 2048, 1792, 32, 4), 2).shared_memory, 221828);
  EXPECT_EQ(plan_swiglu(call("affine", 4, 64, 1792, 2048, 1, 4)).shared_memory, 20480);
  EXPECT_EQ(plan_combine(call("affine", 4, 64, 2048, 1792, 1, 4), 2).shared_memory, 49216);
  EXPECT_EQ(plan_swiglu(call("mxfp4", 4, 32, 2880, 2880, 1, 4)).shared_memory, 36864);
  EXPECT_EQ(plan_combine(call("mxfp4", 4, 32, 2880, 2880, 1, 4), 2).shared_memory, 81984);
}

/// The plan for experts of width K and N hidden columns on a GPU of 132 multiprocessors.
ExpertsPlan experts(CudaCall up) {
  auto down = up;
  std::swap(down.N, down.K);
  return plan_experts(up, down, 2, 132);
}

TEST(CudaPath, MakesAllExpertsInOneKernel) {
  auto wide = [](int bits, int tokens) { return call("affine", bits, 64, 1792, 2048, tokens, 4); };
  auto many = [](int tokens) {
    auto c = call("affine", 4, 64, 768, 2048, tokens, 8);
    c.experts = 128;
    return c;
  };
  // tests/cuda/experts.cu has the same numbers, from the kernels themselves.
  for (const auto& [c, product, threads, ring, bytes] :
       {std::tuple{wide(4, 1), CudaProduct::lanes, 512, 4, 106624},
        {wide(8, 1), CudaProduct::lanes, 512, 4, 104576},
        {call("mxfp4", 4, 32, 2880, 2880, 1, 4), CudaProduct::fp, 512, 3, 176560},
        {many(1), CudaProduct::mma, 512, 3, 198788},
        {wide(4, 16), CudaProduct::mma, 512, 2, 211588},
        {many(32), CudaProduct::mma, 256, 3, 230916}}) {
    const auto plan = experts(c);
    EXPECT_EQ(plan.obstacle, "");
    EXPECT_EQ(plan.product, product);
    EXPECT_EQ(plan.threads, threads);
    EXPECT_EQ(plan.ring, ring);
    EXPECT_EQ(plan.shared_memory, bytes);
  }
}

TEST(CudaPath, LeavesToTwoKernelsWhatOneDoesNotTake) {
  EXPECT_NE(experts(call("mxfp4", 4, 32, 2880, 2880, 4, 4)).obstacle, "");
  EXPECT_NE(experts(call("affine", 4, 64, 768, 2048, 40, 8)).obstacle, "");
  EXPECT_NE(experts(call("affine", 3, 64, 768, 2048, 2, 4)).obstacle, "");
  auto up = call("affine", 4, 64, 1792, 2048, 1, 4);
  auto down = call("affine", 8, 64, 2048, 1792, 1, 4);
  EXPECT_EQ(plan_experts(up, down, 2, 132).obstacle, "projections of several widths");
}

TEST(CudaPath, KeepsWithinSharedMemory) {
  for (int capability : {80, 86, 90, 100, 120}) {
    const int limit = capability == 80                        ? 166912
                      : capability == 86 || capability == 120 ? 101376
                                                              : 232448;
    for (int bits : {4, 8}) {
      for (int K : {512, 2048, 4096, 7168, 14336}) {
        for (int tokens : {1, 4, 32}) {
          const auto c =
              call("affine", bits, 64, 2048, K, tokens, 8, mx::bfloat16, true, capability);
          for (const auto& plan : {plan_swiglu(c), plan_combine(c, 2)}) {
            if (plan.obstacle.empty()) EXPECT_LE(plan.shared_memory, limit);
          }
          const auto plan = experts(c);
          if (plan.obstacle.empty()) EXPECT_LE(plan.shared_memory, limit);
        }
      }
    }
  }
}

TEST(CudaPath, RefusesMorePairsThanItsTables) {
  EXPECT_NE(plan_combine(call("affine", 4, 64, 768, 2048, 64, 8), 2).obstacle, "");
}

TEST(CudaPath, NormUsesMlxsThreads) {
  EXPECT_EQ(rms_norm_threads(512, 2), 64);
  EXPECT_EQ(rms_norm_threads(2048, 2), 128);
  EXPECT_EQ(rms_norm_threads(2880, 2), 128);
  EXPECT_EQ(rms_norm_threads(1536, 2), 64);
  EXPECT_EQ(rms_norm_threads(12288, 2), 1024);
  EXPECT_EQ(rms_norm_threads(7168, 4), 1024);
}

TEST(CudaPath, RoutesWithinTheKernelsSizes) {
  EXPECT_EQ(cuda_route_obstacle({32, 4, 1, 80}), "");
  EXPECT_EQ(cuda_route_obstacle({1024, 32, 32, 90}), "");
  EXPECT_NE(cuda_route_obstacle({32, 4, 1, 75}), "");
  EXPECT_NE(cuda_route_obstacle({1025, 4, 1, 90}), "");
  EXPECT_NE(cuda_route_obstacle({64, 33, 1, 90}), "");
  EXPECT_NE(cuda_route_obstacle({128, 4, 64, 90}), "");
}

TEST(CudaPath, RouterSumsAsMlxReads) {
  EXPECT_EQ(row_sum_reads(3, 2), 8);
  EXPECT_EQ(row_sum_reads(3, 4), 4);
  EXPECT_EQ(row_sum_reads(1, 4), 8);
}

TEST(CudaPath, ReadsStacksInPlace) {
  auto stack = mx::zeros({4, 8, 16}, mx::uint32);
  auto halves = mx::split(stack, 2, 1);
  auto turned = mx::swapaxes(stack, 1, 2);
  mx::eval(stack, halves[0], halves[1], turned);
  EXPECT_TRUE(cuda_readable(stack));
  EXPECT_TRUE(cuda_readable(halves[1]));
  EXPECT_FALSE(cuda_readable(turned));
}

/// The same numbers as in tests/cuda/steps.cu, which has the kernels' own.
TEST(CudaPath, SharesMemoryAsStepsDo) {
  auto product = [](int bits) {
    return RowProduct{{"affine", 64, bits}, mx::bfloat16, 2048, std::nullopt};
  };
  EXPECT_EQ(product(4).shared_memory(512, 4) + 6 * 128, 135936);
  EXPECT_EQ(product(4).shared_memory(128, 3), 28672);
  EXPECT_EQ(product(8).shared_memory(128, 1, 8) + 2 * 128, 20736);
}

TEST(CudaPath, StepsTakeOneRowOfAffineWeights) {
  const mx::Stream cpu(0, mx::Device::cpu);
  const auto x = mx::zeros({1, 1, 128}, mx::bfloat16);
  const auto scales = mx::zeros({8, 2}, mx::bfloat16);
  const Linear layer{mx::zeros({8, 16}, mx::uint32), scales, scales, std::nullopt, 64, 4, "affine"};
  EXPECT_EQ(row_obstacle(x, layer, cpu), "no kernel for this device");
  const auto norm = mx::zeros({128}, mx::bfloat16);
  EXPECT_EQ(row_obstacle(x, AddNorm{x, norm, 1e-5f}), "");
  EXPECT_NE(row_obstacle(x, AddNorm{mx::astype(x, mx::float32), norm, 1e-5f}), "");
  EXPECT_NE(row_obstacle(x, AddNorm{x, mx::zeros({64}, mx::bfloat16), 1e-5f}), "");
}

}  // namespace
}  // namespace zmlx::fast
