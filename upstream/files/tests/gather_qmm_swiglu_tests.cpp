// Copyright © 2026 Apple Inc.

#include <limits>

#include "doctest/doctest.h"

#include "mlx/mlx.h"

using namespace mlx::core;

namespace {

struct Stack {
  std::vector<array> q;
  array dense;

  Stack(int E, int H, int D)
      : q(quantize(random::normal({E, H, D}) * array(0.1f), 64, 4)),
        dense(dequantize(q[0], q[1], q[2], 64, 4)) {}
};

array fused(
    const array& x,
    const Stack& gate,
    const Stack& up,
    const array& indices) {
  return fast::gather_qmm_swiglu(
      x,
      gate.q[0],
      gate.q[1],
      gate.q[2],
      up.q[0],
      up.q[1],
      up.q[2],
      std::nullopt,
      indices);
}

array composed(
    const array& x,
    const Stack& gate,
    const Stack& up,
    const array& indices) {
  auto product = [&](const Stack& stack) {
    return matmul(x, swapaxes(take(stack.dense, indices, 0), -1, -2));
  };
  auto g = product(gate), u = product(up);
  return g * sigmoid(g) * u;
}

} // namespace

TEST_CASE("test gather_qmm_swiglu") {
  random::seed(0);
  Stack gate(4, 24, 128), up(4, 24, 128);
  auto x = random::normal({3, 1, 1, 128});
  auto indices = array({0u, 1u, 3u, 3u, 2u, 0u}, {3, 2});
  auto y = fused(x, gate, up, indices);
  CHECK_EQ(y.shape(), Shape{3, 2, 1, 24});
  CHECK_EQ(y.dtype(), float32);
  auto expected = composed(x, gate, up, indices);
  CHECK(allclose(y, expected, 1e-4, 1e-5).item<bool>());
}

TEST_CASE("test gather_qmm_swiglu gradient") {
  random::seed(1);
  Stack gate(4, 24, 128), up(4, 24, 128);
  auto x = random::normal({3, 1, 1, 128});
  auto indices = array({0u, 1u, 3u, 3u, 2u, 0u}, {3, 2});
  auto of = [&](auto f) {
    return grad([&, f](const array& x) {
      return sum(square(f(x, gate, up, indices)));
    })(x);
  };
  CHECK(allclose(of(fused), of(composed), 1e-3, 1e-4).item<bool>());
}

TEST_CASE("test gather_qmm_swiglu with an expert out of range") {
  Stack gate(2, 8, 64), up(2, 8, 64);
  auto x = ones({1, 1, 1, 64});
  auto y = fused(x, gate, up, array({1u, 2u}, {1, 2}));
  auto bad = all(isnan(y), std::vector<int>{0, 2, 3});
  CHECK(array_equal(bad, array({false, true})).item<bool>());
}

TEST_CASE("test gather_qmm_swiglu arguments") {
  Stack gate(2, 8, 64), up(2, 16, 64);
  auto indices = array({0u, 1u}, {1, 2});
  CHECK_THROWS_AS(
      fused(ones({1, 1, 1, 64}), gate, up, indices), std::invalid_argument);
  CHECK_THROWS_AS(
      fused(ones({1, 1, 1, 32}), gate, gate, indices), std::invalid_argument);
}
