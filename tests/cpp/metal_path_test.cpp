// Which Metal kernel takes a call, and the text of it: decided on the host, so tested without a
// GPU.

#include "fast/metal_path.h"

#include <gtest/gtest.h>

#include <stdexcept>

#include "fast/metal_tuning.h"
#include "mlx/ops.h"

namespace zmlx::fast {
namespace {

MetalCall call(const char* mode, int bits, int group, int N, int K, int tokens, int top_k,
               bool exact = true, bool sorted = false) {
  return {{mode, group, bits}, mx::bfloat16, N, K, 32, tokens, top_k, exact, sorted};
}

TEST(MetalPath, FollowsMlxsFastKernelWhereMlxRunsIt) {
  struct Case {
    const char* mode;
    int bits, group, aligned;  // the multiple of K that the fast kernel wants
  };
  for (auto [mode, bits, group, aligned] : {Case{"affine", 3, 64, 512},
                                            {"affine", 4, 64, 512},
                                            {"affine", 5, 64, 512},
                                            {"affine", 6, 64, 256},
                                            {"affine", 8, 64, 256},
                                            {"mxfp4", 4, 32, 512},
                                            {"mxfp8", 8, 32, 256},
                                            {"nvfp4", 4, 16, 512}}) {
    SCOPED_TRACE(std::string(mode) + std::to_string(bits));
    for (bool combine : {false, true}) {
      auto packs = [&](int N, int K) {
        const auto c = call(mode, bits, group, N, K, 1, 4);
        const auto plan = combine ? plan_metal_combine(c) : plan_metal_swiglu(c);
        EXPECT_EQ(plan.obstacle, "");
        return plan.packs;
      };
      EXPECT_EQ(packs(768, 3 * aligned), 2);
      EXPECT_EQ(packs(768, 3 * aligned + 128), 1);
      EXPECT_EQ(packs(764, 3 * aligned), 1);
    }
  }
}

TEST(MetalPath, TakesOnePackOfOneAndTwoBits) {
  for (int bits : {1, 2}) {
    EXPECT_EQ(plan_metal_swiglu(call("affine", bits, 64, 768, 2048, 1, 4)).packs, 1);
    EXPECT_EQ(plan_metal_swiglu(call("affine", bits, 64, 768, 2048, 1, 4, false)).packs, 1);
  }
}

TEST(MetalPath, FloatSumsTakeTwoPacksAtAnySize) {
  EXPECT_EQ(plan_metal_swiglu(call("affine", 4, 64, 764, 96, 1, 4, false)).packs, 2);
  EXPECT_EQ(plan_metal_combine(call("nvfp4", 4, 16, 764, 48, 1, 4, false)).packs, 2);
}

TEST(MetalPath, FallsThroughWhereMlxTakesItsKernelForSortedExperts) {
  // 128 pairs of 32 experts, sorted by mlx-lm.
  const auto sorted = call("affine", 4, 64, 768, 2048, 32, 4, true, true);
  EXPECT_NE(plan_metal_swiglu(sorted).obstacle, "");
  EXPECT_NE(plan_metal_combine(sorted).obstacle, "");
  // Three pairs an expert, fewer than 16 pairs, not sorted, or not exact.
  EXPECT_EQ(plan_metal_swiglu(call("affine", 4, 64, 768, 2048, 31, 4, true, true)).obstacle, "");
  auto few = call("affine", 4, 64, 768, 2048, 3, 4, true, true);
  few.experts = 2;
  EXPECT_EQ(plan_metal_swiglu(few).obstacle, "");
  EXPECT_EQ(plan_metal_swiglu(call("affine", 4, 64, 768, 2048, 32, 4)).obstacle, "");
  EXPECT_EQ(plan_metal_swiglu(call("affine", 4, 64, 768, 2048, 32, 4, false, true)).obstacle, "");
}

TEST(MetalPath, KnowsFromTheIndicesWhatMlxLmSorts) {
  const auto x = mx::zeros({16, 64}, mx::bfloat16), w = mx::zeros({32, 8, 8}, mx::uint32);
  auto sorted = [&](int tokens, int top_k, bool told) {
    const auto indices = mx::zeros({tokens, top_k}, mx::uint32);
    return metal_call(x, w, indices, {"affine", 64, 4}, true, told).sorted;
  };
  EXPECT_FALSE(sorted(15, 4, false));
  EXPECT_TRUE(sorted(16, 4, false));
  EXPECT_TRUE(sorted(15, 4, true));
}

TEST(MetalPath, FollowsMlxsSumOfUpTo31Experts) {
  EXPECT_EQ(plan_metal_combine(call("affine", 4, 64, 768, 2048, 1, 31)).obstacle, "");
  EXPECT_NE(plan_metal_combine(call("affine", 4, 64, 768, 2048, 1, 32)).obstacle, "");
  EXPECT_NE(plan_metal_combine(call("affine", 4, 64, 1, 2048, 1, 4)).obstacle, "");
  EXPECT_EQ(plan_metal_combine(call("affine", 4, 64, 1, 2048, 1, 32, false)).obstacle, "");
}

TEST(MetalPath, FillsThreadgroupsOf256ThreadsAtMost) {
  for (int top_k = 1; top_k < 32; ++top_k) {
    const auto plan = plan_metal_combine(call("affine", 4, 64, 768, 2048, 1, top_k));
    EXPECT_LE(plan.simdgroups * plan.tiles, 8) << top_k;
    EXPECT_GE(plan.simdgroups * plan.tiles, 5) << top_k;
    EXPECT_LE(plan.simdgroups, top_k);
  }
}

TEST(MetalPath, NormalisesRowsThatMlxDoesNotLoopOver) {
  EXPECT_EQ(metal_norm_obstacle(4096), "");
  EXPECT_NE(metal_norm_obstacle(4097), "");
  EXPECT_EQ(metal_norm_simdgroups(1), 1);
  EXPECT_EQ(metal_norm_simdgroups(2048), 16);
  EXPECT_EQ(metal_norm_simdgroups(4096), 16);
}

TEST(MetalPath, RoutesWhatFitsASimdgroup) {
  EXPECT_EQ(metal_route_obstacle({1024, 32, 32, false}), "");
  EXPECT_NE(metal_route_obstacle({1025, 8, 1, false}), "");
  EXPECT_NE(metal_route_obstacle({128, 33, 1, false}), "");
  EXPECT_NE(metal_route_obstacle({256, 8, 64, false}), "");
  EXPECT_NE(metal_route_obstacle({128, 8, 1, true}), "");
}

TEST(MetalTuning, ReadsWhatIsSet) {
  const auto tuning = parse_metal_tuning("swiglu_rows=4,norm_simdgroups=32");
  EXPECT_EQ(tuning.swiglu_rows, 4);
  EXPECT_EQ(tuning.norm_simdgroups, 32);
  EXPECT_EQ(tuning.combine_rows, MetalTuning().combine_rows);
  EXPECT_EQ(parse_metal_tuning("").swiglu_rows, MetalTuning().swiglu_rows);
}

TEST(MetalTuning, RefusesWhatItCannotUse) {
  for (const char* text : {"swiglu_rows", "swiglu_rows=", "swiglu_rows=0", "swiglu_rows=9",
                           "swiglu_rows=2x", "swiglu=2", "norm_simdgroups=33", "=2"}) {
    EXPECT_THROW(parse_metal_tuning(text), std::invalid_argument) << text;
  }
}

TEST(MetalPath, NeedsAWheelWithMetal) {
  EXPECT_EQ(metal_device_obstacle(mx::default_stream(mx::Device::cpu)),
            "no kernel for this device");
}

TEST(MetalPath, ReadsStacksWhoseRowsHaveNoGaps) {
  auto evaluated = [](mx::array a) {
    a.eval();
    return a;
  };
  const auto w = evaluated(mx::zeros({4, 8, 16}, mx::uint32));
  EXPECT_TRUE(metal_readable(w));
  // Every second expert; every second row; the first columns.
  EXPECT_TRUE(metal_readable(evaluated(mx::slice(w, {0, 0, 0}, {4, 8, 16}, {2, 1, 1}))));
  EXPECT_FALSE(metal_readable(evaluated(mx::slice(w, {0, 0, 0}, {4, 8, 16}, {1, 2, 1}))));
  EXPECT_FALSE(metal_readable(evaluated(mx::slice(w, {0, 0, 0}, {4, 8, 8}))));
}

}  // namespace
}  // namespace zmlx::fast
