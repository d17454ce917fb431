// The experts of a block in one call: the two operations that it stands for.

#include <gtest/gtest.h>

#include "mlx/mlx.h"
#include "zmlx/zmlx.h"

namespace zmlx::fast {
namespace {

Linear projection(int rows, int columns) {
  const auto parts = mx::quantize(mx::random::normal({6, rows, columns}), 64, 4, "affine");
  return {parts[0], parts[1], parts[2], std::nullopt, 64, 4, "affine"};
}

struct Call {
  MoeExperts experts{projection(64, 128), projection(64, 128), projection(128, 64)};
  mx::array x = mx::random::normal({1, 5, 128});
  mx::array indices = mx::astype(mx::random::randint(0, 6, {1, 5, 2}), mx::uint32);
  mx::array weights = mx::softmax(mx::random::normal({1, 5, 2}), -1);

  mx::array composed() const {
    const auto& [gate, up, down] = std::tie(experts.gate, experts.up, experts.down);
    const auto hidden =
        gather_qmm_swiglu(mx::expand_dims(x, {-2, -3}), gate.weight, *gate.scales, gate.biases,
                          up.weight, *up.scales, up.biases, std::nullopt, indices);
    return gather_qmm_combine(hidden, down.weight, *down.scales, down.biases, indices, weights);
  }
};

TEST(MoeExperts, EqualsItsTwoOperations) {
  const Call call;
  const auto y = moe_experts(call.x, call.experts, call.indices, call.weights);
  ASSERT_TRUE(y);
  EXPECT_TRUE(mx::array_equal(*y, call.composed()).item<bool>());
  const auto paths =
      explain([&] { moe_experts(call.x, call.experts, call.indices, call.weights); });
  ASSERT_EQ(paths.size(), 2u);
  EXPECT_EQ(paths[0].op, "gather_qmm_swiglu");
  EXPECT_EQ(paths[1].op, "gather_qmm_combine");
}

TEST(MoeExperts, CastsAsModelsDo) {
  Call call;
  call.weights = mx::astype(call.weights, mx::bfloat16);
  call.experts.weights_as_input = true;
  const auto y = moe_experts(call.x, call.experts, call.indices, call.weights);
  ASSERT_TRUE(y);
  EXPECT_EQ(y->dtype(), mx::float32);
  call.weights = mx::astype(call.weights, mx::float32);
  EXPECT_TRUE(mx::array_equal(*y, call.composed()).item<bool>());
}

TEST(MoeExperts, RefusesWhatDoesNotFit) {
  Call call;
  call.experts.down = projection(128, 128);
  EXPECT_THROW(moe_experts(call.x, call.experts, call.indices, call.weights),
               std::invalid_argument);
}

}  // namespace
}  // namespace zmlx::fast
