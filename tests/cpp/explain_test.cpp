#include <gtest/gtest.h>

#include "oracle.h"
#include "zmlx/zmlx.h"

namespace zmlx::testing {
namespace {

TEST(Explain, NamesThePathOfEachCallInOrder) {
  const auto w = random_weights({"affine", 4, 64}, 1, 8, 64, mx::float32, 1);
  const auto x = mx::zeros({1, 64});
  const auto m = [](const mx::array& a) { return mx::squeeze(a, 0); };
  const auto paths = explain([&] {
    fast::rms_norm(x, std::nullopt, 1e-5f);
    fast::quantized_matmul(x, m(w.w), m(w.scales), m(*w.biases));
    fast::quantized_matmul(mx::zeros({1, 8}), m(w.w), m(w.scales), m(*w.biases), false);
  });
  ASSERT_EQ(paths.size(), 3u);
  EXPECT_EQ(paths[0], (Path{"rms_norm", "cpu", ""}));
  EXPECT_EQ(paths[1], (Path{"quantized_matmul", "cpu", ""}));
  EXPECT_EQ(paths[2].path, "fallback");
  EXPECT_NE(paths[2].reason, "");
  EXPECT_TRUE(explain([] {}).empty());
}

TEST(Explain, AnErrorEndsTheRecording) {
  EXPECT_THROW(explain([] { throw std::runtime_error("x"); }), std::runtime_error);
  EXPECT_TRUE(explain([] {}).empty());
}

TEST(Numerics, OnlyKnownNamesAreTaken) {
  EXPECT_EQ(fast::default_numerics(), "exact");
  fast::set_default_numerics("fp32");
  EXPECT_EQ(fast::default_numerics(), "fp32");
  fast::set_default_numerics("exact");
  EXPECT_TRUE(
      throws_invalid([] { fast::set_default_numerics("fast"); }, {"exact", "fp32", "fast"}));
}

}  // namespace
}  // namespace zmlx::testing
