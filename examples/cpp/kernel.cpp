// Kernels from formulas in C++: an activation with its derivative, and softmax in two passes.

#include <iostream>

#include "mlx/mlx.h"
#include "zmlx/kernel.h"

namespace mx = mlx::core;

int main() {
  const auto mish = zmlx::elementwise("x * tanh(log(1 + exp(x)))");
  const auto x = mx::random::normal({2, 5});
  std::cout << "mish: " << mish(x) << "\n";

  const auto slope = mx::grad([&](const mx::array& a) { return mx::sum(mish(a)); });
  std::cout << "its derivative: " << slope(x) << "\n";

  zmlx::MapReduceOptions softmax;
  softmax.pass1 = {"-INFINITY", "max(acc1, x)", "max(a, b)"};
  softmax.pass2 = {"0.0f", "acc2 + exp(x - s1)", "a + b"};
  softmax.write = "exp(x - s1) / s2";
  const auto own = zmlx::map_reduce(softmax)(x);
  const auto stock = mx::softmax(x, -1);
  std::cout << "softmax: " << own << "\n";

  try {
    zmlx::elementwise("x * (1 + )");
  } catch (const std::invalid_argument& error) {
    std::cout << error.what() << "\n";
  }
  return mx::allclose(own, stock).item<bool>() ? 0 : 1;
}
