// One mixture-of-experts layer in C++: quantized experts, a router, and the two fused primitives
// next to the same layer composed of MLX's own ops.

#include <chrono>
#include <cstdio>

#include "mlx/mlx.h"
#include "zmlx/zmlx.h"

namespace mx = mlx::core;

struct Projection {
  mx::array w, scales, biases;
};

Projection random_projection(int E, int rows, int columns) {
  auto parts = mx::quantize(mx::random::normal({E, rows, columns}), 64, 4);
  mx::eval(parts);
  return {parts[0], parts[1], parts[2]};
}

double milliseconds(const std::function<mx::array()>& layer) {
  mx::eval(layer());
  const auto start = std::chrono::steady_clock::now();
  mx::eval(layer());
  const std::chrono::duration<double, std::milli> elapsed =
      std::chrono::steady_clock::now() - start;
  return elapsed.count();
}

int main() {
  constexpr int M = 4, K = 2, E = 8, D = 256, H = 512;
  const auto gate = random_projection(E, H, D), up = random_projection(E, H, D),
             down = random_projection(E, D, H);
  const auto x = mx::random::normal({M, D});

  // The router: softmax over the experts, the K best, weights that sum to 1.
  const auto scores = mx::softmax(mx::random::normal({M, E}), -1);
  const auto experts = mx::slice(mx::argpartition(mx::negative(scores), K - 1, -1), {0, 0}, {M, K});
  auto weights = mx::take_along_axis(scores, experts, -1);
  weights = mx::divide(weights, mx::sum(weights, -1, true));

  const auto rows = mx::expand_dims(x, {-2, -3});
  const auto fused = [&] {
    const auto h = zmlx::fast::gather_qmm_swiglu(rows, gate.w, gate.scales, gate.biases, up.w,
                                                 up.scales, up.biases, std::nullopt, experts);
    return zmlx::fast::gather_qmm_combine(h, down.w, down.scales, down.biases, experts, weights);
  };
  const auto stock = [&] {
    const auto product = [&](const mx::array& in, const Projection& p) {
      return mx::gather_qmm(in, p.w, p.scales, p.biases, std::nullopt, experts);
    };
    const auto g = product(rows, gate);
    const auto h = mx::multiply(mx::multiply(g, mx::sigmoid(g)), product(rows, up));
    const auto y = mx::squeeze(product(h, down), -2);
    return mx::sum(mx::multiply(y, mx::expand_dims(weights, -1)), -2);
  };

  for (const auto& path : zmlx::explain([&] { fused(); })) {
    std::printf("%s: %s\n", path.op.c_str(), path.path.c_str());
  }
  // Sums of large terms may come out near 0, so differences are held against the largest result.
  const auto truth = stock();
  const auto off = mx::max(mx::abs(mx::subtract(fused(), truth))).item<float>();
  const bool same = off <= 1e-5f * mx::max(mx::abs(truth)).item<float>();
  std::printf("stock %.2f ms, fused %.2f ms on %s, results agree: %s\n", milliseconds(stock),
              milliseconds(fused), zmlx::cpu_target().c_str(), same ? "yes" : "no");
  return same ? 0 : 1;
}
