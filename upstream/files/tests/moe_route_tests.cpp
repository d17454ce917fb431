// Copyright © 2026 Apple Inc.

#include "doctest/doctest.h"

#include "mlx/mlx.h"

using namespace mlx::core;

namespace {

// Weights at their experts, zero elsewhere.
array dense(const std::pair<array, array>& routed, int experts) {
  auto [indices, weights] = routed;
  auto zero = zeros({indices.shape(0), experts});
  return put_along_axis(zero, indices, weights, -1);
}

} // namespace

TEST_CASE("test moe_route") {
  random::seed(0);
  auto logits = random::normal({5, 32});
  for (auto& order : {"descending", "ascending"}) {
    auto routed = fast::moe_route(
        logits, 4, "softmax", std::nullopt, 1, 1, true, 2.0f, 0.0f, order);
    CHECK_EQ(routed.first.dtype(), uint32);
    CHECK_EQ(routed.first.shape(), Shape{5, 4});
    auto scores = softmax(logits, -1);
    auto least = min(topk(scores, 4, -1), -1, true);
    auto kept = where(scores >= least, scores, array(0.0f));
    auto expected = array(2.0f) * kept / sum(kept, -1, true);
    CHECK(allclose(dense(routed, 32), expected, 1e-4, 1e-6).item<bool>());
  }
}

TEST_CASE("test moe_route selects by the biased score") {
  auto logits = zeros({2, 8});
  auto bias = array({0.f, 0.f, 9.f, 0.f, 0.f, 0.f, 8.f, 0.f});
  auto [indices, weights] = fast::moe_route(logits, 2, "sigmoid", bias);
  CHECK(array_equal(sort(indices, -1), array({2u, 6u, 2u, 6u}, {2, 2}))
            .item<bool>());
  CHECK(allclose(weights, full({2, 2}, 0.5f)).item<bool>());
}

TEST_CASE("test moe_route arguments") {
  CHECK_THROWS_AS(
      fast::moe_route(ones({2, 8}), 9, "softmax"), std::invalid_argument);
  CHECK_THROWS_AS(
      fast::moe_route(ones({2, 8}), 2, "none"), std::invalid_argument);
}
