// Copyright © 2026 Apple Inc.

#include "doctest/doctest.h"

#include "mlx/mlx.h"

using namespace mlx::core;

namespace {

struct Case {
  std::vector<array> q = quantize(random::normal({4, 24, 128}) * array(0.1f));
  array dense = dequantize(q[0], q[1], q[2]);
  array x = random::normal({3, 2, 1, 128});
  array indices = array({0u, 1u, 3u, 3u, 2u, 0u}, {3, 2});
  array weights = random::uniform({3, 2});

  array fused(const array& x, const array& weights) const {
    return fast::gather_qmm_combine(x, q[0], q[1], q[2], indices, weights);
  }
  array composed(const array& x, const array& weights) const {
    auto y = matmul(x, swapaxes(take(dense, indices, 0), -1, -2));
    return sum(squeeze(y, -2) * expand_dims(weights, -1), -2);
  }
};

} // namespace

TEST_CASE("test gather_qmm_combine") {
  random::seed(0);
  Case c;
  auto y = c.fused(c.x, c.weights);
  CHECK_EQ(y.shape(), Shape{3, 24});
  CHECK(allclose(y, c.composed(c.x, c.weights), 1e-4, 1e-5).item<bool>());
}

TEST_CASE("test gather_qmm_combine gradient") {
  random::seed(1);
  Case c;
  auto of_x = [&](auto f) {
    return grad([&, f](const array& x) { return sum(square(f(x))); })(c.x);
  };
  auto of_weights = [&](auto f) {
    return grad([&, f](const array& w) { return sum(square(f(w))); })(
        c.weights);
  };
  CHECK(allclose(
            of_x([&](const array& x) { return c.fused(x, c.weights); }),
            of_x([&](const array& x) { return c.composed(x, c.weights); }),
            1e-3,
            1e-4)
            .item<bool>());
  CHECK(allclose(
            of_weights([&](const array& w) { return c.fused(c.x, w); }),
            of_weights([&](const array& w) { return c.composed(c.x, w); }),
            1e-3,
            1e-4)
            .item<bool>());
}

TEST_CASE("test gather_qmm_combine with an expert out of range") {
  Case c;
  c.indices = array({0u, 4u, 3u, 3u, 2u, 0u}, {3, 2});
  auto bad = all(isnan(c.fused(c.x, c.weights)), -1);
  CHECK(array_equal(bad, array({true, false, false})).item<bool>());
}

TEST_CASE("test gather_qmm_combine arguments") {
  Case c;
  CHECK_THROWS_AS(c.fused(ones({3, 2, 1, 64}), c.weights), std::invalid_argument);
  CHECK_THROWS_AS(c.fused(c.x, ones({3, 1})), std::invalid_argument);
}
