#pragma once

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "mlx/mlx.h"

/// What results are judged by: quantized weights whose values are known in float64, and the
/// contract of docs/numerics.md.
namespace zmlx::testing {

namespace mx = mlx::core;

/// Sanitizers look for bad accesses, which fewer activations find as well, and take their time.
#if defined(ZMLX_SANITIZED)
constexpr bool kSanitized = true;
#else
constexpr bool kSanitized = false;
#endif

/// The token counts that a test goes through: all, or the first two under sanitizers.
inline std::vector<int> token_counts(std::vector<int> all) {
  if (kSanitized) all.resize(2);
  return all;
}

/// One quantization, as MLX names it.
struct Format {
  std::string mode;
  int bits, group_size;
};
std::string name_of(const Format& format);

/// Every quantization that the library has kernels for.
std::vector<Format> all_formats();

/// Quantized weights (E, N, K) and their exact values.
struct Weights {
  Format format;
  int E, N, K;
  mx::array w, scales;
  std::optional<mx::array> biases;
  std::vector<double> values;  ///< (E, N, K), dequantized in float64 from the packed bits

  double at(int e, int n, int k) const { return values[(static_cast<size_t>(e) * N + n) * K + k]; }
  /// The same with float32 scales and biases: what the float32 reference computes with.
  Weights as_float32() const;
};

/// Quantizes normal random weights, with scales and biases of type `type` in mode "affine".
/// @param scale  multiplies the weights before they are quantized.
Weights random_weights(const Format& format, int E, int N, int K, mx::Dtype type, uint64_t seed,
                       double scale = 1);

/// Normal random numbers of the given type.
mx::array random_normal(const mx::Shape& shape, mx::Dtype type, uint64_t seed);

/// All elements in row-major order.
std::vector<double> values_of(const mx::array& a);

/// Fails unless `out` keeps the contract: over the whole case its root mean square error is at most
/// the reference's, its largest error at most 1.5 times the reference's or 4 eps times the sum of
/// absolute terms, each plus one rounding to the type of `out`.
/// @param reference  MLX's composition in float32.
/// @param terms      per output, the sum of the absolute values of what is added up.
void expect_contract(const mx::array& out, const mx::array& reference,
                     const std::vector<double>& oracle, const std::vector<double>& terms,
                     const std::string& what);

/// Calls f once for each instruction set of this machine, with the kernels using it.
void for_each_target(const std::function<void(const std::string& target)>& f);

/// Whether evaluating `f` throws std::invalid_argument with every given part in its message.
::testing::AssertionResult throws_invalid(const std::function<void()>& f,
                                          const std::vector<std::string>& parts);

}  // namespace zmlx::testing
