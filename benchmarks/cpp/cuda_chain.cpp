// The experts of a chain of MoE layers on a CUDA GPU, composed of MLX's ops as mlx-lm composes them
// and fused, from C++: what remains of a layer's time without Python. Prints one JSON object.
//
//   cuda_chain WIDTH HIDDEN EXPERTS TOP_K MODE BITS GROUP_SIZE TOKENS [LAYERS] [ROUNDS]

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <stdexcept>
#include <string>
#include <vector>

#include "mlx/mlx.h"
#include "zmlx/zmlx.h"

namespace mx = mlx::core;

namespace {

using Clock = std::chrono::steady_clock;
double since(Clock::time_point begin) {
  return std::chrono::duration<double>(Clock::now() - begin).count();
}

struct Options {
  int width, hidden, experts, top_k;
  std::string mode;
  int bits, group_size, tokens, layers, rounds;
};

/// Quantized matrices of all experts.
struct Projection {
  mx::array w, scales;
  std::optional<mx::array> biases;

  Projection(const Options& o, int rows, int columns) : w(0), scales(0) {
    auto dense = mx::multiply(mx::random::normal({o.experts, rows, columns}, mx::bfloat16),
                              mx::array(0.02f, mx::bfloat16));
    auto parts = mx::quantize(dense, o.group_size, o.bits, o.mode);
    mx::eval(parts);
    w = parts[0], scales = parts[1];
    if (parts.size() > 2) biases = parts[2];
  }
  mx::array product(const Options& o, const mx::array& x, const mx::array& indices,
                    bool sorted) const {
    return mx::gather_qmm(x, w, scales, biases, std::nullopt, indices, true, o.group_size, o.bits,
                          o.mode, std::nullopt, sorted);
  }
};

zmlx::fast::Linear linear(const Options& o, const Projection& p) {
  return {p.w, p.scales, p.biases, std::nullopt, o.group_size, o.bits, o.mode};
}

struct Layer {
  Projection gate, up, down;
  zmlx::fast::MoeExperts experts;
  mx::array indices, many_weights, weights;

  explicit Layer(const Options& o)
      : gate(o, o.hidden, o.width),
        up(o, o.hidden, o.width),
        down(o, o.width, o.hidden),
        experts{linear(o, gate), linear(o, up), linear(o, down)},
        indices(0),
        many_weights(0),
        weights(0) {
    auto order = mx::argsort(mx::random::uniform({1, o.tokens, o.experts}), -1);
    indices = mx::contiguous(mx::slice(order, {0, 0, 0}, {1, o.tokens, o.top_k}));
    set_weights(mx::softmax(mx::random::normal({64, o.tokens, o.top_k}, mx::bfloat16), -1));
  }

  /// Of 64 calls, of which the first is used: MLX keeps arrays of 8 bytes in memory that the host
  /// shares, from where a GPU takes 12 us to read them. A model's router leaves them on the GPU.
  void set_weights(const mx::array& all) {
    many_weights = all;
    weights = mx::slice(all, {0, 0, 0}, {1, all.shape(1), all.shape(2)});
    mx::eval(indices, many_weights, weights);
  }
};

std::vector<mx::array> swiglu(const std::vector<mx::array>& in) {
  return {mx::multiply(mx::multiply(in[0], mx::sigmoid(in[0])), in[1])};
}

mx::array stock(const Options& o, const Layer& layer, const mx::array& x) {
  static const auto activation = mx::compile(swiglu);
  auto rows = mx::expand_dims(x, {-2, -3});
  auto chosen = layer.indices;
  const bool sorted = chosen.size() >= 64;  // as SwitchGLU does
  auto order = chosen, inverse = chosen;
  if (sorted) {
    chosen = mx::flatten(chosen);
    order = mx::argsort(chosen);
    inverse = mx::argsort(order);
    auto row = mx::floor_divide(order, mx::array(o.top_k, mx::uint32));
    rows = mx::take(mx::flatten(rows, 0, -3), row, 0);
    chosen = mx::take(chosen, order, 0);
  }
  auto up = layer.up.product(o, rows, chosen, sorted);
  auto gate = layer.gate.product(o, rows, chosen, sorted);
  auto y = layer.down.product(o, activation({gate, up})[0], chosen, sorted);
  if (sorted) y = mx::unflatten(mx::take(y, inverse, 0), 0, layer.indices.shape());
  y = mx::multiply(mx::squeeze(y, -2), mx::expand_dims(layer.weights, -1));
  return mx::sum(y, -2);
}

mx::array spread(const mx::array& x) {
  return mx::sqrt(mx::mean(mx::square(mx::astype(x, mx::float32))));
}

/// Scales the weights so that a layer's result has a spread of one. Else a chain's numbers vanish
/// or overflow, and equality proves nothing.
void scale_weights(const Options& o, Layer& layer, const mx::array& x) {
  const auto y = spread(stock(o, layer, x));
  layer.set_weights(mx::astype(mx::divide(layer.many_weights, y), mx::bfloat16));
}

/// A chain of layers, six of which have weights of their own.
std::vector<Layer> make_chain(const Options& o, const mx::array& input) {
  constexpr int kDistinct = 6;
  std::vector<Layer> layers;
  auto x = input;
  for (int i = 0; i < o.layers; ++i) {
    layers.push_back(i < kDistinct ? Layer(o) : Layer(layers[i - kDistinct]));
    scale_weights(o, layers.back(), x);
    x = stock(o, layers.back(), x);
  }
  return layers;
}

mx::array fused(const Options&, const Layer& layer, const mx::array& x) {
  auto y = zmlx::fast::moe_experts(x, layer.experts, layer.indices, layer.weights);
  if (!y) throw std::runtime_error("No kernel takes this call.");
  return *y;
}

using OneLayer = mx::array (*)(const Options&, const Layer&, const mx::array&);

mx::array chain(const Options& o, const std::vector<Layer>& layers, OneLayer one, mx::array x) {
  for (const auto& layer : layers) x = one(o, layer, x);
  return x;
}

/// Seconds of a chain, each built while the one before is computed.
double steady(const std::function<mx::array()>& run) {
  constexpr int kChains = 8;
  auto last = run();
  mx::eval(last);
  const auto begin = Clock::now();
  for (int i = 0; i < kChains; ++i) {
    auto y = run();
    mx::async_eval(y);
    mx::eval(last);
    last = y;
  }
  mx::eval(last);
  return since(begin) / kChains;
}

void print(const char* name, const std::vector<double>& seconds, bool last = false) {
  std::printf("\"%s\": [", name);
  for (size_t i = 0; i < seconds.size(); ++i) std::printf("%s%.9g", i ? ", " : "", seconds[i]);
  std::printf("]%s", last ? "}\n" : ", ");
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 9) {
    std::fprintf(stderr,
                 "usage: %s WIDTH HIDDEN EXPERTS TOP_K MODE BITS GROUP_SIZE TOKENS [LAYERS] "
                 "[ROUNDS]\n",
                 argv[0]);
    return 2;
  }
  auto number = [&](int i, int otherwise) { return i < argc ? std::atoi(argv[i]) : otherwise; };
  const Options o{number(1, 0), number(2, 0), number(3, 0), number(4, 0),  argv[5],
                  number(6, 0), number(7, 0), number(8, 0), number(9, 24), number(10, 12)};
  const auto x = mx::random::normal({1, o.tokens, o.width}, mx::bfloat16);
  mx::eval(x);
  const auto layers = make_chain(o, x);
  const auto run_stock = [&] { return chain(o, layers, stock, x); };
  const auto run_fused = [&] { return chain(o, layers, fused, x); };
  const bool equal = mx::array_equal(run_stock(), run_fused()).item<bool>();
  // A GPU that has been idle takes a while to reach its clock.
  for (const auto begin = Clock::now(); since(begin) < 0.5;) mx::eval(run_stock());
  std::vector<double> stock_seconds, fused_seconds, build, submit;
  for (int i = 0; i < o.rounds; ++i) {
    stock_seconds.push_back(steady(run_stock));
    fused_seconds.push_back(steady(run_fused));
    const auto begin = Clock::now();
    auto y = run_fused();
    build.push_back(since(begin));
    const auto built = Clock::now();
    mx::async_eval(y);
    submit.push_back(since(built));
    mx::eval(y);
  }
  const auto paths = zmlx::explain([&] { fused(o, layers[0], x); });
  const float left = spread(run_fused()).item<float>();
  std::printf("{\"equal\": %s, \"spread\": %g, \"layers\": %d, \"calls\": %zu, ",
              equal ? "true" : "false", left, o.layers, paths.size());
  print("stock", stock_seconds);
  print("fused", fused_seconds);
  print("build", build);
  print("submit", submit, true);
  return equal ? 0 : 1;
}
