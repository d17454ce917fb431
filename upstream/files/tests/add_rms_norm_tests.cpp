// Copyright © 2026 Apple Inc.

#include "doctest/doctest.h"

#include "mlx/mlx.h"

using namespace mlx::core;

TEST_CASE("test add_rms_norm") {
  random::seed(0);
  for (auto type : {float32, float16, bfloat16}) {
    for (int D : {7, 64, 1000}) {
      auto x = astype(random::normal({3, D}), type);
      auto residual = astype(random::normal({3, D}), type);
      auto weight = astype(random::normal({D}), type);
      auto [normed, sum] = fast::add_rms_norm(x, residual, weight, 1e-5);
      CHECK_EQ(normed.dtype(), type);
      CHECK(array_equal(sum, x + residual).item<bool>());
      auto expected = fast::rms_norm(x + residual, weight, 1e-5);
      double tolerance = type == float32 ? 1e-5 : type == float16 ? 4e-3 : 3e-2;
      CHECK(allclose(
                astype(normed, float32),
                astype(expected, float32),
                tolerance,
                tolerance)
                .item<bool>());
    }
  }
}

TEST_CASE("test add_rms_norm gradient") {
  random::seed(1);
  auto residual = random::normal({3, 64}), weight = random::normal({64});
  auto fused = [&](const array& x) {
    auto [normed, sum] = fast::add_rms_norm(x, residual, weight, 1e-5);
    return mlx::core::sum(square(normed) + sum);
  };
  auto composed = [&](const array& x) {
    auto sum = x + residual;
    return mlx::core::sum(square(fast::rms_norm(sum, weight, 1e-5)) + sum);
  };
  auto x = random::normal({3, 64});
  CHECK(allclose(grad(fused)(x), grad(composed)(x), 1e-4, 1e-4).item<bool>());
}

TEST_CASE("test add_rms_norm arguments") {
  auto x = ones({3, 64}), weight = ones({64});
  CHECK_THROWS_AS(
      fast::add_rms_norm(x, ones({2, 64}), weight, 1e-5),
      std::invalid_argument);
  CHECK_THROWS_AS(
      fast::add_rms_norm(x, x, ones({32}), 1e-5), std::invalid_argument);
}
