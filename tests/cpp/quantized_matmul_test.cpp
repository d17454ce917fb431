#include <gtest/gtest.h>

#include <cmath>

#include "oracle.h"
#include "zmlx/zmlx.h"

namespace zmlx::testing {
namespace {

mx::array matrix(const mx::array& stack) { return mx::squeeze(stack, 0); }
std::optional<mx::array> matrix(const std::optional<mx::array>& stack) {
  return stack ? std::optional(matrix(*stack)) : std::nullopt;
}

mx::array product(const mx::array& x, const Weights& w) {
  return fast::quantized_matmul(x, matrix(w.w), matrix(w.scales), matrix(w.biases), true,
                                w.format.group_size, w.format.bits, w.format.mode);
}

mx::array reference(const mx::array& x, const Weights& weights) {
  const auto w = weights.as_float32();
  return mx::quantized_matmul(mx::astype(x, mx::float32), matrix(w.w), matrix(w.scales),
                              matrix(w.biases), true, w.format.group_size, w.format.bits,
                              w.format.mode);
}

/// The same by calls of `rows` rows each: which kernel multiplies depends on their number.
mx::array product_by_rows(const mx::array& x, const Weights& w, int rows) {
  std::vector<mx::array> parts;
  for (int m = 0; m < x.shape(0); m += rows) {
    parts.push_back(product(mx::slice(x, {m, 0}, {m + rows, x.shape(1)}), w));
  }
  return mx::concatenate(parts, 0);
}

void check(const mx::array& x, const Weights& w, const std::string& what, int rows_per_call = 0) {
  const auto rows = values_of(x);
  std::vector<double> oracle, terms;
  for (size_t m = 0; m * w.K < rows.size(); ++m) {
    for (int n = 0; n < w.N; ++n) {
      double sum = 0, magnitude = 0;
      for (int k = 0; k < w.K; ++k) {
        sum += rows[m * w.K + k] * w.at(0, n, k);
        magnitude += std::abs(rows[m * w.K + k] * w.at(0, n, k));
      }
      oracle.push_back(sum);
      terms.push_back(magnitude);
    }
  }
  const auto ours = rows_per_call > 0 ? product_by_rows(x, w, rows_per_call) : product(x, w);
  expect_contract(ours, reference(x, w), oracle, terms, what);
}

TEST(QuantizedMatmul, KeepsTheContractForEveryFormat) {
  for_each_target([](const std::string& target) {
    uint64_t seed = 1;
    for (const auto& format : all_formats()) {
      for (auto type : {mx::float32, mx::float16, mx::bfloat16}) {
        // A row that ends within a unit of the longest vectors, and one that does not.
        for (int K : kSanitized ? std::vector<int>{1152} : std::vector<int>{256, 1152}) {
          // Enough outputs that root mean squares mean something.
          const auto w = random_weights(format, 1, 901, K, type, ++seed);
          for (int M : token_counts({1, 5, 2, 3, 4, 9})) {
            check(random_normal({M, K}, type, ++seed), w,
                  target + ", " + name_of(format) + ", M " + std::to_string(M) + ", K " +
                      std::to_string(K) + ", type " + std::to_string(type.size()));
          }
        }
      }
    }
  });
}

TEST(QuantizedMatmul, TakesEverySizeThatMlxTakes) {
  for_each_target([](const std::string& target) {
    uint64_t seed = 1000;
    for (const auto& format : all_formats()) {
      const int step = std::max(format.group_size, 32);
      for (int K : {step, 3 * step, 5 * step}) {
        for (int N : {1, 7, 66}) {
          const auto w = random_weights(format, 1, N, K, mx::float32, ++seed);
          for (int M : {1, 4, 17}) {
            const auto x = random_normal({M, K}, mx::float32, ++seed);
            const auto ours = values_of(product(x, w)), theirs = values_of(reference(x, w));
            for (size_t i = 0; i < ours.size(); ++i) {
              ASSERT_NEAR(ours[i], theirs[i], 1e-4 + 1e-5 * std::abs(theirs[i]))
                  << target << ", " << name_of(format) << ", K " << K << ", N " << N << ", M " << M;
            }
          }
        }
      }
    }
  });
}

TEST(QuantizedMatmul, KeepsTheContractForShortRowsInFpModes) {
  // Where MLX's sums, one for each group, are as short as ours.
  for_each_target([](const std::string& target) {
    uint64_t seed = 4000;
    for (const auto& format :
         {Format{"mxfp4", 4, 32}, Format{"mxfp8", 8, 32}, Format{"nvfp4", 4, 16}}) {
      for (int K : {64, 128, 256, 512}) {
        const auto w = random_weights(format, 1, 401, K, mx::float32, ++seed);
        for (int rows_per_call : {1, 4, 24}) {
          check(random_normal({48, K}, mx::float32, ++seed), w,
                target + ", " + name_of(format) + ", K " + std::to_string(K) + ", rows per call " +
                    std::to_string(rows_per_call),
                rows_per_call);
        }
      }
    }
  });
}

TEST(QuantizedMatmul, KeepsTheContractForAwkwardActivations) {
  for_each_target([](const std::string& target) {
    uint64_t seed = 2000;
    // A row's error hangs on where its largest activation lies: of 2,000 log-normal rows, MLX's was
    // the smaller in 15, with 0.71 times its error on average. So each case has rows enough for a
    // mean, as large as one another, whatever number of them a call gets.
    constexpr int kRows = 24, K = 1088;
    for (const auto& format : {Format{"affine", 4, 64}, Format{"affine", 8, 32},
                               Format{"mxfp4", 4, 32}, Format{"affine", 2, 64}}) {
      for (auto type : {mx::float32, mx::bfloat16}) {
        const auto w = random_weights(format, 1, 201, K, type, ++seed);
        for (int rows_per_call : token_counts({1, 6, 3})) {
          const auto x = random_normal({kRows, K}, mx::float32, ++seed);
          const auto check_as = [&](const char* kind, mx::array values, float scale = 1) {
            values = mx::divide(values, mx::max(mx::abs(values), -1, true));
            check(mx::astype(mx::multiply(values, mx::array(scale)), type), w,
                  target + ", " + name_of(format) + ", " + kind + ", rows per call " +
                      std::to_string(rows_per_call),
                  rows_per_call);
          };
          check_as("positive", mx::abs(x));
          check_as("tiny", x, 1e-30f);
          check_as("huge", x, 1e30f);
          check_as("log-normal", mx::exp(mx::multiply(x, mx::array(3.0f))), 1e3f);
          const auto spread =
              mx::random::randint(-50, 50, {kRows, K}, mx::int32, mx::random::key(++seed));
          check_as("a hundred binades",
                   mx::multiply(x, mx::power(mx::array(2.0f), mx::astype(spread, mx::float32))),
                   0x1p50f);
          check(mx::zeros({rows_per_call, K}, type), w, target + ", " + name_of(format) + ", zero");
        }
      }
    }
  });
}

TEST(QuantizedMatmul, HugeAndTinyScalesStayInRange) {
  for_each_target([](const std::string& target) {
    uint64_t seed = 3000;
    for (double scale : {1e-34, 1e-20, 1e20, 1e30}) {
      const auto w = random_weights({"affine", 4, 64}, 1, 64, 1024, mx::float32, ++seed, scale);
      const double x_scale = scale < 1 ? 1e3 : 1e-3;
      for (auto type : {mx::float32, mx::bfloat16}) {
        auto x = mx::multiply(random_normal({1, 1024}, mx::float32, ++seed),
                              mx::array(static_cast<float>(x_scale)));
        check(mx::astype(x, type), w, target + ", scale " + std::to_string(std::log10(scale)));
      }
    }
  });
}

TEST(QuantizedMatmul, InfinitiesAndNanStayInTheirRows) {
  for_each_target([](const std::string& target) {
    for (const auto& format : {Format{"affine", 4, 64}, Format{"mxfp4", 4, 32}}) {
      const auto w = random_weights(format, 1, 70, 256, mx::float32, 7);
      for (auto type : {mx::float32, mx::bfloat16}) {
        for (int M : {2, 6}) {
          for (float bad : {INFINITY, -INFINITY, NAN}) {
            auto rows = values_of(random_normal({M, 256}, mx::float32, 8));
            std::vector<float> floats(rows.begin(), rows.end());
            floats[256 + 3] = bad;
            const auto x = mx::astype(mx::array(floats.begin(), {M, 256}), type);
            const auto ours = values_of(product(x, w));
            const auto given = values_of(x);
            for (int m = 0; m < M; ++m) {
              for (int n = 0; n < 70; ++n) {
                double sum = 0;
                for (int k = 0; k < 256; ++k) sum += given[m * 256 + k] * w.at(0, n, k);
                const double value = ours[m * 70 + n];
                // Unfused, scale * q + bias may be zero where it is not quite: infinity times that.
                if (std::abs(w.at(0, n, 3)) < 1e-6) continue;
                ASSERT_EQ(std::isnan(value), std::isnan(sum)) << target << " " << m << " " << n;
                if (std::isinf(sum)) ASSERT_EQ(value, sum) << target << " " << m << " " << n;
                ASSERT_EQ(std::isfinite(value), m != 1) << target << " " << m << " " << n;
              }
            }
          }
        }
      }
    }
  });
}

TEST(QuantizedMatmul, AnyStridesAndBatches) {
  const auto w = random_weights({"affine", 4, 64}, 1, 40, 128, mx::float32, 9);
  const auto wide = random_normal({3, 128, 5}, mx::float32, 10);
  const auto x = mx::swapaxes(wide, 1, 2);  // (3, 5, 128), the last axis strided
  EXPECT_TRUE(mx::array_equal(product(x, w), product(mx::contiguous(x), w)).item<bool>());
  const auto every_other =
      mx::slice(random_normal({3, 10, 128}, mx::float32, 11), {0, 0, 0}, {3, 10, 128}, {1, 2, 1});
  EXPECT_TRUE(mx::array_equal(product(every_other, w), product(mx::contiguous(every_other), w))
                  .item<bool>());
  // Weights that are every other row of a larger matrix, and weights whose last axis is strided.
  const auto every_second_row = [](const mx::array& a) {
    return mx::slice(a, {0, 0}, a.shape(), {2, 1});
  };
  const auto column_major = [](const mx::array& a) {
    return mx::swapaxes(mx::contiguous(mx::swapaxes(a, 0, 1)), 0, 1);
  };
  const std::function<mx::array(const mx::array&)> views[] = {every_second_row, column_major};
  for (const auto& view : views) {
    const auto a = view(matrix(w.w)), b = view(matrix(w.scales)), c = view(*matrix(w.biases));
    const auto strided = fast::quantized_matmul(x, a, b, c);
    const auto plain =
        fast::quantized_matmul(x, mx::contiguous(a), mx::contiguous(b), mx::contiguous(c));
    EXPECT_TRUE(mx::array_equal(strided, plain).item<bool>());
  }
}

TEST(QuantizedMatmul, NoRows) {
  const auto w = random_weights({"affine", 4, 64}, 1, 40, 128, mx::float32, 12);
  EXPECT_EQ(product(mx::zeros({0, 128}), w).shape(), (mx::Shape{0, 40}));
  auto y = product(mx::zeros({2, 0, 128}), w);
  mx::eval(y);
  EXPECT_EQ(y.size(), 0u);
}

TEST(QuantizedMatmul, DerivativesAreMlx) {
  const auto w = random_weights({"affine", 4, 64}, 1, 40, 128, mx::float32, 13);
  const auto x = random_normal({2, 128}, mx::float32, 14);
  const auto ours = mx::grad([&](const mx::array& v) { return mx::sum(product(v, w)); })(x);
  const auto theirs = mx::grad([&](const mx::array& v) { return mx::sum(reference(v, w)); })(x);
  EXPECT_TRUE(mx::allclose(ours, theirs, 1e-5, 1e-5).item<bool>());
  const auto mapped = mx::vmap([&](const mx::array& v) { return product(v, w); })(x);
  EXPECT_TRUE(mx::allclose(mapped, reference(x, w), 1e-5, 1e-5).item<bool>());
}

TEST(QuantizedMatmul, RefusesWhatDoesNotFit) {
  const auto w = random_weights({"affine", 4, 64}, 1, 40, 128, mx::float32, 15);
  EXPECT_TRUE(throws_invalid([&] { product(mx::zeros({2, 64}), w); },
                             {"[quantized_matmul]", "(2,64)", "128"}));
  EXPECT_TRUE(throws_invalid(
      [&] { fast::quantized_matmul(mx::zeros({2, 128}), w.w, w.scales, std::nullopt); },
      {"[quantized_matmul]", "biases"}));
  EXPECT_TRUE(throws_invalid(
      [&] { fast::quantized_matmul(mx::zeros({2, 128}), w.w, w.scales, w.biases, true, 64, 7); },
      {"[quantized_matmul]", "bits", "7"}));
}

}  // namespace
}  // namespace zmlx::testing
