#include <gtest/gtest.h>

#include <cmath>

#include "oracle.h"
#include "zmlx/zmlx.h"

namespace zmlx::testing {
namespace {

/// A layer's down projection, what comes into it, and the router's weights.
struct Case {
  Weights down;
  std::optional<mx::array> bias;
  mx::array x;        ///< (M, K, 1, H)
  mx::array experts;  ///< (M, K)
  mx::array weights;  ///< (M, K)

  mx::array fused() const {
    const auto& f = down.format;
    return fast::gather_qmm_combine(x, down.w, down.scales, down.biases, experts, weights, true,
                                    f.group_size, f.bits, f.mode, bias);
  }
  /// MLX's own ops, in float32.
  mx::array composed() const {
    const auto w = down.as_float32();
    auto y = mx::gather_qmm(mx::astype(x, mx::float32), w.w, w.scales, w.biases, std::nullopt,
                            experts, true, w.format.group_size, w.format.bits, w.format.mode);
    y = mx::squeeze(y, -2);
    if (bias) y = mx::add(y, mx::take(mx::astype(*bias, mx::float32), experts, 0));
    return mx::sum(mx::multiply(y, mx::expand_dims(mx::astype(weights, mx::float32), -1)), -2);
  }
};

void check(const Case& c, const std::string& what) {
  const auto rows = values_of(c.x), weights = values_of(c.weights), experts = values_of(c.experts);
  const auto bias = c.bias ? values_of(*c.bias) : std::vector<double>{};
  const int H = c.down.K, D = c.down.N, top_k = c.experts.shape(-1);
  std::vector<double> oracle(experts.size() / top_k * D, 0), terms(oracle.size(), 0);
  for (size_t p = 0; p < experts.size(); ++p) {
    const int e = static_cast<int>(experts[p]);
    for (int n = 0; n < D; ++n) {
      double sum = c.bias ? bias[e * D + n] : 0, magnitude = std::abs(sum);
      for (int k = 0; k < H; ++k) {
        sum += rows[p * H + k] * c.down.at(e, n, k);
        magnitude += std::abs(rows[p * H + k] * c.down.at(e, n, k));
      }
      oracle[p / top_k * D + n] += weights[p] * sum;
      terms[p / top_k * D + n] += std::abs(weights[p]) * magnitude;
    }
  }
  expect_contract(c.fused(), c.composed(), oracle, terms, what);
}

Case random_case(const Format& format, int E, int D, int H, int M, int top_k, mx::Dtype type,
                 mx::Dtype weight_type, uint64_t seed) {
  auto experts = mx::astype(mx::random::randint(0, E, {M, top_k}, mx::int32, mx::random::key(seed)),
                            mx::uint32);
  auto weights = mx::astype(
      mx::softmax(mx::random::normal({M, top_k}, mx::float32, mx::random::key(seed + 1)), -1),
      weight_type);
  mx::eval(experts, weights);
  return {random_weights(format, E, D, H, type, seed + 2), std::nullopt,
          random_normal({M, top_k, 1, H}, type, seed + 3), experts, weights};
}

TEST(GatherQmmCombine, KeepsTheContractForEveryFormat) {
  for_each_target([](const std::string& target) {
    uint64_t seed = 1;
    for (const auto& format : all_formats()) {
      for (auto type : {mx::float32, mx::float16, mx::bfloat16}) {
        for (int M : token_counts({1, 24, 5})) {
          // Enough outputs that root mean squares mean something.
          const auto c =
              random_case(format, 5, M == 1 ? 1537 : 259, 256, M, 3, type, type, seed += 10);
          check(c, target + ", " + name_of(format) + ", M " + std::to_string(M) + ", bytes " +
                       std::to_string(static_cast<int>(type.size())));
        }
      }
    }
  });
}

TEST(GatherQmmCombine, Float32WeightsPromoteTheResult) {
  for_each_target([](const std::string& target) {
    auto c = random_case({"affine", 4, 64}, 4, 130, 256, 6, 4, mx::bfloat16, mx::float32, 500);
    EXPECT_EQ(c.fused().dtype(), mx::float32);
    check(c, target + ", float32 weights");
    c.bias = random_normal({4, 130}, mx::bfloat16, 501);
    check(c, target + ", float32 weights and a bias");
  });
}

TEST(GatherQmmCombine, TopKOfOneAndOneExpertForAll) {
  for_each_target([](const std::string& target) {
    check(random_case({"mxfp4", 4, 32}, 4, 257, 128, 9, 1, mx::bfloat16, mx::bfloat16, 600),
          target + ", top-1");
    auto c = random_case({"affine", 8, 32}, 4, 66, 128, 130, 4, mx::float32, mx::float32, 610);
    c.experts = mx::full({130, 4}, 3, mx::uint32);
    check(c, target + ", one expert for all");
  });
}

TEST(GatherQmmCombine, ExpertsThatDoNotExistGiveNan) {
  auto c = random_case({"affine", 4, 64}, 4, 70, 128, 3, 2, mx::float32, mx::float32, 700);
  c.experts = mx::array({0, 1, 2, 4, 3, 0}, {3, 2}, mx::uint32);
  const auto values = values_of(c.fused());
  for (int m = 0; m < 3; ++m) {
    for (int n = 0; n < 70; ++n) ASSERT_EQ(std::isnan(values[m * 70 + n]), m == 1) << m;
  }
}

TEST(GatherQmmCombine, AnyStridesAndBatches) {
  const auto c = random_case({"affine", 4, 64}, 4, 70, 128, 6, 2, mx::float32, mx::float32, 800);
  const auto& w = c.down;
  const auto call = [&](const mx::array& x, const mx::array& experts, const mx::array& weights) {
    return fast::gather_qmm_combine(x, w.w, w.scales, w.biases, experts, weights);
  };
  const auto plain = c.fused();
  const auto batched = call(mx::reshape(c.x, {2, 3, 2, 1, 128}), mx::reshape(c.experts, {2, 3, 2}),
                            mx::reshape(c.weights, {2, 3, 2}));
  EXPECT_EQ(batched.shape(), (mx::Shape{2, 3, 70}));
  EXPECT_TRUE(mx::array_equal(mx::reshape(batched, {6, 70}), plain).item<bool>());
  const auto column_major = [](const mx::array& a) {
    return mx::swapaxes(mx::contiguous(mx::swapaxes(a, 0, 1)), 0, 1);
  };
  EXPECT_TRUE(mx::array_equal(
                  call(column_major(c.x), column_major(c.experts), column_major(c.weights)), plain)
                  .item<bool>());
  EXPECT_EQ(
      call(mx::zeros({0, 2, 1, 128}), mx::zeros({0, 2}, mx::uint32), mx::zeros({0, 2})).shape(),
      (mx::Shape{0, 70}));
}

TEST(GatherQmmCombine, DerivativesAndVmap) {
  const auto c = random_case({"affine", 4, 64}, 4, 40, 128, 3, 2, mx::float32, mx::float32, 900);
  const auto gradients = [&](bool fused) {
    return mx::grad(
        [&](const std::vector<mx::array>& v) {
          auto copy = c;
          copy.x = v[0];
          copy.weights = v[1];
          copy.down.scales = v[2];
          copy.down.biases = v[3];
          return mx::sum(mx::square(fused ? copy.fused() : copy.composed()));
        },
        std::vector<int>{0, 1, 2, 3})({c.x, c.weights, c.down.scales, *c.down.biases});
  };
  const auto ours = gradients(true), theirs = gradients(false);
  for (size_t i = 0; i < ours.size(); ++i) {
    EXPECT_TRUE(mx::allclose(ours[i], theirs[i], 1e-4, 1e-3).item<bool>()) << i;
  }
  const auto call = [&](const std::vector<mx::array>& v) {
    auto copy = c;
    copy.x = mx::expand_dims(v[0], 0);
    copy.experts = mx::expand_dims(v[1], 0);
    copy.weights = mx::expand_dims(v[2], 0);
    return std::vector<mx::array>{mx::squeeze(copy.fused(), 0)};
  };
  const auto mapped = mx::vmap(call, {0, 0, 0}, {0})({c.x, c.experts, c.weights})[0];
  EXPECT_TRUE(mx::allclose(mapped, c.fused(), 1e-5, 1e-5).item<bool>());
}

TEST(GatherQmmCombine, RefusesWhatDoesNotFit) {
  const auto c = random_case({"affine", 4, 64}, 4, 40, 128, 3, 2, mx::float32, mx::float32, 950);
  const auto call = [&](const mx::array& x, const mx::array& experts, const mx::array& weights) {
    fast::gather_qmm_combine(x, c.down.w, c.down.scales, c.down.biases, experts, weights);
  };
  const char* op = "[gather_qmm_combine]";
  EXPECT_TRUE(throws_invalid([&] { call(mx::zeros({3, 2, 128}), c.experts, c.weights); },
                             {op, "(..., K, 1, H)"}));
  EXPECT_TRUE(throws_invalid([&] { call(c.x, mx::zeros({3, 3}, mx::uint32), c.weights); },
                             {op, "rhs_indices", "(3,3)"}));
  EXPECT_TRUE(throws_invalid([&] { call(c.x, c.experts, mx::zeros({3, 2}, mx::int32)); },
                             {op, "weights must be a float"}));
}

}  // namespace
}  // namespace zmlx::testing
