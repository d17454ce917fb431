#include <gtest/gtest.h>

#include <cmath>

#include "oracle.h"
#include "zmlx/zmlx.h"

namespace zmlx::testing {
namespace {

constexpr float kEps = 1e-5f;

void check(const mx::array& x, const mx::array& residual, const std::optional<mx::array>& weight,
           const std::string& what) {
  const auto [normed, sum] = fast::add_rms_norm(x, residual, weight, kEps);
  // The sum has one correct answer: one rounding of an addition.
  EXPECT_TRUE(mx::array_equal(sum, mx::add(x, residual)).item<bool>()) << what;
  EXPECT_EQ(sum.dtype(), mx::add(x, residual).dtype()) << what;
  EXPECT_EQ(normed.dtype(), mx::fast::rms_norm(sum, weight, kEps).dtype()) << what;

  const auto values = values_of(sum);
  const auto w = weight ? values_of(*weight) : std::vector<double>(x.shape(-1), 1.0);
  const size_t D = x.shape(-1);
  std::vector<double> oracle, terms;
  for (size_t row = 0; row < values.size() / D; ++row) {
    double squares = 0;
    for (size_t i = 0; i < D; ++i) squares += values[row * D + i] * values[row * D + i];
    const double scale = 1 / std::sqrt(squares / D + static_cast<double>(kEps));
    for (size_t i = 0; i < D; ++i) {
      oracle.push_back(values[row * D + i] * scale * w[i]);
      terms.push_back(std::abs(oracle.back()));
    }
  }
  const auto wide = weight ? std::optional(mx::astype(*weight, mx::float32)) : std::nullopt;
  const auto reference = mx::fast::rms_norm(mx::astype(sum, mx::float32), wide, kEps);
  expect_contract(normed, reference, oracle, terms, what);
}

TEST(AddRmsNorm, KeepsTheContractForEveryTypeAndSize) {
  for_each_target([](const std::string& target) {
    uint64_t seed = 1;
    for (auto type : {mx::float32, mx::float16, mx::bfloat16}) {
      for (auto weight_type : {mx::float32, mx::float16, mx::bfloat16}) {
        for (int D : {1, 7, 64, 100, 2048, 5000}) {
          const auto x = random_normal({100, D}, type, ++seed);
          const auto residual = random_normal({100, D}, type, ++seed);
          const auto what = target + ", D " + std::to_string(D);
          check(x, residual, random_normal({D}, weight_type, ++seed), what);
          check(x, residual, std::nullopt, what + ", no weight");
        }
      }
    }
  });
}

TEST(AddRmsNorm, MixedTypesPromote) {
  const auto x = random_normal({60, 96}, mx::bfloat16, 100);
  check(x, random_normal({60, 96}, mx::float32, 101), random_normal({96}, mx::bfloat16, 102),
        "mixed");
  check(x, random_normal({60, 96}, mx::float16, 103), std::nullopt, "bfloat16 and float16");
}

TEST(AddRmsNorm, LargeOutputsStreamPastTheCachesUnchanged) {
  // 2 x 24 MB of outputs take the streaming stores; halves of them do not.
  for_each_target([](const std::string& target) {
    const auto x = random_normal({6144, 2048}, mx::bfloat16, 200);
    const auto residual = random_normal({6144, 2048}, mx::bfloat16, 201);
    const auto weight = random_normal({2048}, mx::bfloat16, 202);
    const auto [normed, sum] = fast::add_rms_norm(x, residual, weight, kEps);
    const auto rows = [](const mx::array& a) { return mx::slice(a, {0, 0}, {8, 2048}); };
    const auto [few_normed, few_sum] = fast::add_rms_norm(rows(x), rows(residual), weight, kEps);
    EXPECT_TRUE(mx::array_equal(rows(normed), few_normed).item<bool>()) << target;
    EXPECT_TRUE(mx::array_equal(sum, mx::add(x, residual)).item<bool>()) << target;
  });
}

TEST(AddRmsNorm, InfinitiesNanAndZeros) {
  std::vector<float> rows(3 * 64, 0.0f);
  rows[5] = INFINITY;
  rows[64 + 6] = NAN;
  const auto x = mx::array(rows.begin(), {3, 64});
  const auto weight = mx::ones({64});
  const auto ours = values_of(fast::add_rms_norm(x, mx::zeros_like(x), weight, kEps).first);
  const auto theirs = values_of(mx::fast::rms_norm(x, weight, kEps));
  for (size_t i = 0; i < ours.size(); ++i) {
    EXPECT_EQ(std::isnan(ours[i]), std::isnan(theirs[i])) << i;
    if (!std::isnan(theirs[i])) EXPECT_EQ(ours[i], theirs[i]) << i;
  }
}

TEST(AddRmsNorm, AnyStridesAndNoRows) {
  const auto x = mx::swapaxes(random_normal({2, 64, 3}, mx::float32, 300), 1, 2);
  const auto residual = random_normal({2, 3, 64}, mx::float32, 301);
  check(x, residual, random_normal({64}, mx::float32, 302), "strided");
  const auto [normed, sum] =
      fast::add_rms_norm(mx::zeros({0, 64}), mx::zeros({0, 64}), std::nullopt, kEps);
  EXPECT_EQ(normed.shape(), (mx::Shape{0, 64}));
  EXPECT_EQ(sum.shape(), (mx::Shape{0, 64}));
  mx::eval(normed, sum);
}

TEST(AddRmsNorm, RmsNormAloneIsTheSameNorm) {
  const auto x = random_normal({5, 200}, mx::bfloat16, 400);
  const auto weight = random_normal({200}, mx::bfloat16, 401);
  const auto zero = mx::zeros({5, 200}, mx::bfloat16);
  EXPECT_TRUE(mx::array_equal(fast::rms_norm(x, weight, kEps),
                              fast::add_rms_norm(x, zero, weight, kEps).first)
                  .item<bool>());
}

TEST(AddRmsNorm, DerivativesAndVmap) {
  const auto x = random_normal({3, 40}, mx::float32, 500);
  const auto residual = random_normal({3, 40}, mx::float32, 501);
  const auto weight = random_normal({40}, mx::float32, 502);
  const auto loss = [](bool fused) {
    return [fused](const std::vector<mx::array>& v) {
      auto sum = mx::add(v[0], v[1]);
      auto normed = mx::fast::rms_norm(sum, v[2], kEps);
      if (fused) std::tie(normed, sum) = fast::add_rms_norm(v[0], v[1], v[2], kEps);
      return mx::sum(mx::multiply(mx::square(normed), mx::sin(sum)));
    };
  };
  const std::vector<int> all{0, 1, 2};
  const auto ours = mx::grad(loss(true), all)({x, residual, weight});
  const auto theirs = mx::grad(loss(false), all)({x, residual, weight});
  for (size_t i = 0; i < 3; ++i) {
    EXPECT_TRUE(mx::allclose(ours[i], theirs[i], 1e-4, 1e-4).item<bool>()) << i;
  }
  const auto normed = [](const std::vector<mx::array>& v) {
    return std::vector<mx::array>{fast::add_rms_norm(v[0], v[1], v[2], kEps).first};
  };
  const auto expected = normed({x, residual, weight})[0];
  EXPECT_TRUE(mx::allclose(mx::vmap(normed, {0, 0, -1}, {0})({x, residual, weight})[0], expected,
                           1e-5, 1e-5)
                  .item<bool>());
  const auto weights = mx::broadcast_to(weight, {3, 40});
  EXPECT_TRUE(mx::allclose(mx::vmap(normed, {0, 0, 0}, {0})({x, residual, weights})[0], expected,
                           1e-5, 1e-5)
                  .item<bool>());
}

TEST(AddRmsNorm, RefusesWhatDoesNotFit) {
  const auto x = mx::zeros({3, 40});
  EXPECT_TRUE(throws_invalid([&] { fast::add_rms_norm(x, mx::zeros({3, 41}), std::nullopt, kEps); },
                             {"[add_rms_norm]", "residual", "(3,41)"}));
  EXPECT_TRUE(throws_invalid([&] { fast::add_rms_norm(x, x, mx::zeros({39}), kEps); },
                             {"[add_rms_norm]", "weight", "(39)"}));
  EXPECT_TRUE(throws_invalid([&] { fast::rms_norm(mx::array(1), std::nullopt, kEps); },
                             {"[rms_norm]", "axis"}));
}

}  // namespace
}  // namespace zmlx::testing
