// The router's C++ interface; that it equals mlx-lm's routers is tested in Python, against them.

#include <gtest/gtest.h>

#include "mlx/ops.h"
#include "mlx/transforms.h"
#include "zmlx/explain.h"
#include "zmlx/fast.h"

namespace mx = mlx::core;

namespace {

const mx::Device kCpu = mx::Device::cpu;

TEST(MoeRoute, SelectsTheBestAndNormalizes) {
  const mx::array logits({0.0f, 3.0f, -1.0f, 2.0f, 1.0f, -2.0f}, {1, 6});
  auto [indices, weights] = zmlx::fast::moe_route(logits, 2, "softmax", std::nullopt, 1, 1, true,
                                                  2.0f, 0.0f, "descending", "top2", 0.0f, true,
                                                  std::nullopt, std::nullopt, "", 32, kCpu);
  EXPECT_EQ(indices.dtype(), mx::uint32);
  EXPECT_EQ(indices.shape(), (mx::Shape{1, 2}));
  EXPECT_TRUE(
      mx::array_equal(mx::sort(indices, -1, kCpu), mx::array({1, 3}, {1, 2}, mx::uint32), kCpu)
          .item<bool>());
  EXPECT_NEAR(mx::sum(weights, kCpu).item<float>(), 2.0f, 1e-6f);
}

TEST(MoeRoute, KeepsToTheBestGroups) {
  // Groups {0, 1}, {2, 3}, {4, 5}: the second is best although the best expert is in the first.
  const mx::array logits({3.0f, -9.0f, 2.0f, 2.5f, 0.0f, 0.0f}, {1, 6});
  auto [indices, weights] = zmlx::fast::moe_route(logits, 2, "sigmoid", std::nullopt, 3, 1, false,
                                                  1.0f, 0.0f, "ascending", "top2", 0.0f, true,
                                                  std::nullopt, mx::bfloat16, "", 32, kCpu);
  EXPECT_TRUE(
      mx::array_equal(mx::sort(indices, -1, kCpu), mx::array({2, 3}, {1, 2}, mx::uint32), kCpu)
          .item<bool>());
  EXPECT_EQ(weights.dtype(), mx::bfloat16);
}

TEST(MoeRoute, SaysWhichPathItTakes) {
  const auto paths = zmlx::explain([] {
    zmlx::fast::moe_route(mx::zeros({2, 8}), 2, "topk_softmax", std::nullopt, 1, 1, false, 1.0f,
                          0.0f, "descending", "top2", 0.0f, true, std::nullopt, std::nullopt, "",
                          32, kCpu);
  });
  EXPECT_EQ(paths,
            (std::vector<zmlx::Path>{{"moe_route", "fallback", "no kernel for this device"}}));
}

TEST(MoeRoute, RejectsBadArguments) {
  const auto logits = mx::zeros({2, 8});
  EXPECT_THROW(zmlx::fast::moe_route(logits, 9, "softmax"), std::invalid_argument);
  EXPECT_THROW(zmlx::fast::moe_route(logits, 2, "relu"), std::invalid_argument);
  EXPECT_THROW(zmlx::fast::moe_route(logits, 2, "softmax", mx::zeros({7})), std::invalid_argument);
}

}  // namespace
