#include <gtest/gtest.h>

#include <bit>
#include <cfloat>
#include <climits>
#include <cmath>
#include <functional>

#include "kernel_random.h"
#include "oracle.h"
#include "zmlx/zmlx.h"

namespace zmlx::testing {
namespace {

std::vector<double> results(const std::string& expression, const std::vector<mx::array>& inputs) {
  return values_of(elementwise(expression).call(inputs));
}

/// Distance in float32's units in the last place.
double ulps_between(double found, double exact) {
  const auto rounded = static_cast<float>(exact);
  if (std::isnan(exact)) return std::isnan(found) ? 0 : 1e9;
  if (std::isinf(rounded) || std::isinf(found)) return found == rounded ? 0 : 1e9;
  const double unit = std::max(std::nextafter(std::abs(rounded), INFINITY) - std::abs(rounded),
                               std::numeric_limits<float>::denorm_min());
  return std::abs(found - exact) / unit;
}

/// Numbers of [low, high]: evenly, by magnitude, and both ends.
std::vector<float> sweep(double low, double high, int count) {
  std::vector<float> values{static_cast<float>(low), static_cast<float>(high)};
  std::mt19937_64 random(7);
  std::uniform_real_distribution<double> even(low, high), unit(0, 1);
  for (int i = 0; i < count; ++i) {
    values.push_back(static_cast<float>(even(random)));
    const double bound = unit(random) < 0.5 ? low : high;
    const double smallest = std::max(std::log(1e-30), std::log(std::max(std::abs(low), 1e-30)));
    if (bound == 0 || (low > 0 && bound == low)) {
      const double exponent = std::log(std::max(low, 1e-30)) +
                              unit(random) * (std::log(high) - std::log(std::max(low, 1e-30)));
      values.push_back(static_cast<float>(std::exp(exponent)));
    } else {
      const double least = low < 0 ? std::log(1e-30) : smallest;
      const double magnitude = std::exp(least + unit(random) * (std::log(std::abs(bound)) - least));
      values.push_back(static_cast<float>(std::copysign(magnitude, bound)));
    }
  }
  for (float& v : values)
    v = std::min(std::max(v, static_cast<float>(low)), static_cast<float>(high));
  return values;
}

mx::array array_of(const std::vector<float>& values) {
  return mx::array(values.data(), {static_cast<int>(values.size())}, mx::float32);
}

TEST(KernelElementwise, FunctionsAreAsAccurateAsStated) {
  for_each_target([](const std::string& target) {
    for (const auto& f : unary_functions()) {
      const auto xs = sweep(f.low, f.high, 20'000);
      const auto found = results(std::string(f.name) + "(x)", {array_of(xs)});
      double worst = 0, at = 0;
      for (size_t i = 0; i < xs.size(); ++i) {
        const double exact = f.value(xs[i]);
        const double error = ulps_between(found[i], exact);
        if (error > worst) worst = error, at = xs[i];
      }
      EXPECT_LE(worst, std::max(f.ulps, 0.5)) << target << ": " << f.name << " at " << at;
      if (std::getenv("ZMLX_SHOW_ERRORS")) {
        std::printf("%s %s %.2f ulp at %g\n", target.c_str(), f.name, worst, at);
      }
    }
  });
}

TEST(KernelElementwise, EndsAreThoseOfTheMathLibrary) {
  const float inf = INFINITY, nan = NAN;
  const std::vector<float> xs{0.0f,    -0.0f,   inf,   -inf,  nan,   1.0f,   -1.0f,
                              1e-40f,  -1e-40f, 2.0f,  -2.0f, 1e30f, -1e30f, 89.0f,
                              -110.0f, 0.5f,    -0.5f, 1e7f,  3e38f, 0.3f,   -0.3f};
  for_each_target([&](const std::string& target) {
    for (const auto& f : unary_functions()) {
      const auto found = results(std::string(f.name) + "(x)", {array_of(xs)});
      for (size_t i = 0; i < xs.size(); ++i) {
        const double exact = f.value(xs[i]);
        const bool ok =
            std::isnan(exact)                       ? std::isnan(found[i])
            : std::isinf(static_cast<float>(exact)) ? found[i] == static_cast<float>(exact)
            : exact == 0 ? found[i] == 0 && std::signbit(found[i]) == std::signbit(exact)
                         : std::abs(found[i] - exact) <= 1e-6 * std::abs(exact) + 2e-38;
        EXPECT_TRUE(ok) << target << ": " << f.name << "(" << xs[i] << ") = " << found[i]
                        << ", not " << exact;
      }
    }
    for (float a : xs) {
      for (float b : xs) {
        const auto at = std::vector<mx::array>{array_of({a}), array_of({b})};
        const auto expect = [&](const char* name, double exact) {
          const double found = results(std::string(name) + "(a, b)", at)[0];
          const auto rounded = static_cast<float>(exact);
          EXPECT_TRUE(std::isnan(exact) ? std::isnan(found)
                                        : found == rounded || std::abs(found - exact) <=
                                                                  1e-6 * std::abs(exact) + 2e-38)
              << target << ": " << name << "(" << a << ", " << b << ") = " << found << ", not "
              << exact;
        };
        expect("pow", std::pow(double{a}, double{b}));
        expect("atan2", std::atan2(double{a}, double{b}));
        expect("fmod", std::fmod(double{a}, double{b}));
        expect("max", std::fmax(double{a}, double{b}));
        expect("min", std::fmin(double{a}, double{b}));
        expect("copysign", std::copysign(double{a}, double{b}));
      }
    }
  });
}

/// Numbers of float32 of every kind.
std::vector<float> kinds_of_numbers() {
  std::vector<float> values{0.0f,     -0.0f,     INFINITY,   -INFINITY,       NAN,
                            1.0f,     -1.0f,     FLT_MAX,    -FLT_MAX,        FLT_MIN,
                            -FLT_MIN, 0x1p-149f, -0x1p-149f, 0x1.fffffep-127f};
  std::mt19937 random(11);
  while (values.size() < 400) {
    const auto value = std::bit_cast<float>(static_cast<uint32_t>(random()));
    if (!std::isnan(value)) values.push_back(value);
  }
  return values;
}

TEST(KernelElementwise, ExponentsAndNeighboursAreExact) {
  const auto same = [](double found, float exact) {
    return std::isnan(exact) ? std::isnan(found)
                             : found == exact && std::signbit(found) == std::signbit(exact);
  };
  const auto xs = kinds_of_numbers();
  for_each_target([&](const std::string& target) {
    for (int n : {0, 1, -1, 24, -24, 126, -126, 127, -127, 150, -150, 277, -277, 300, -300, INT_MAX,
                  INT_MIN}) {
      const auto text = "ldexp(x, " + std::to_string(int64_t{n}) + ")";
      const auto found = n == INT_MIN ? results("ldexp(x, INT_MIN)", {array_of(xs)})
                                      : results(text, {array_of(xs)});
      for (size_t i = 0; i < xs.size(); ++i) {
        EXPECT_TRUE(same(found[i], std::ldexp(xs[i], n)))
            << target << ": " << text << " of " << xs[i] << " = " << found[i];
      }
    }
    // A power that is computed, cut towards zero.
    const auto powers =
        results("ldexp(a, b)", {array_of({3, 3, 3, 3}), array_of({2.9f, -2.9f, 1e9f, -1e9f})});
    EXPECT_EQ(powers, (std::vector<double>{12, 0.75, INFINITY, 0})) << target;
    const auto exponents = results("float(ilogb(x))", {array_of(xs)});
    const auto whole =
        results("float(ilogb(x) == INT_MIN) + 2 * float(ilogb(x) == INT_MAX)", {array_of(xs)});
    for (size_t i = 0; i < xs.size(); ++i) {
      const bool none = xs[i] == 0 || std::isnan(xs[i]);
      if (none || std::isinf(xs[i])) {
        EXPECT_EQ(whole[i], none ? 1 : 2) << target << ": ilogb of " << xs[i];
      } else {
        EXPECT_EQ(exponents[i], std::ilogb(xs[i])) << target << ": ilogb of " << xs[i];
      }
    }
    std::vector<float> as, bs;
    for (size_t i = 0; i < xs.size(); ++i) {
      for (size_t j :
           {size_t{0}, size_t{1}, size_t{2}, size_t{3}, size_t{4}, size_t{5}, i, i / 2}) {
        as.push_back(xs[i]), bs.push_back(xs[j]);
      }
    }
    const auto next = results("nextafter(a, b)", {array_of(as), array_of(bs)});
    for (size_t i = 0; i < as.size(); ++i) {
      EXPECT_TRUE(same(next[i], std::nextafter(as[i], bs[i])))
          << target << ": nextafter(" << as[i] << ", " << bs[i] << ") = " << next[i];
    }
  });
  // Constants are folded; 16-bit numbers are scaled and rounded once.
  const auto one = array_of({1});
  EXPECT_EQ(results("x * ldexp(3, 4) + ilogb(0.3f) + (nextafter(1.0f, 2.0f) - 1)", {one})[0],
            static_cast<float>(46 + 0x1p-23));
  ElementwiseOptions half;
  half.compute_dtype = mx::float16;
  const auto found =
      elementwise("ldexp(x, -24)", half)(mx::astype(array_of({3, 1.5f}), mx::float16));
  EXPECT_EQ(values_of(found), (std::vector<double>{0x3p-24, 0x1p-23}));
}

TEST(KernelElementwise, PowerIsAccurate) {
  for_each_target([](const std::string& target) {
    std::mt19937_64 random(3);
    std::uniform_real_distribution<double> exponent(-20, 20), log(-4, 4);
    std::vector<float> a, b;
    for (int i = 0; i < 20'000; ++i) {
      a.push_back(static_cast<float>(std::exp(log(random))));
      b.push_back(static_cast<float>(exponent(random)));
    }
    const auto found = results("pow(a, b)", {array_of(a), array_of(b)});
    double worst = 0;
    for (size_t i = 0; i < a.size(); ++i) {
      worst = std::max(worst, ulps_between(found[i], std::pow(double{a[i]}, double{b[i]})));
    }
    EXPECT_LE(worst, 1) << target;
  });
}

TEST(KernelElementwise, RandomExpressionsAgreeWithFloat64) {
  for_each_target([](const std::string& target) {
    std::mt19937_64 random(11);
    std::uniform_real_distribution<double> values(-3, 3);
    int compared = 0;
    constexpr int kPoints = 165;  // more than a tile, and no whole number of vectors
    for (int i = 0; i < 1500; ++i) {
      const auto expression = random_expression(random, 5, 3);
      std::vector<std::vector<float>> in(3);
      for (auto& each : in) {
        for (int k = 0; k < kPoints; ++k) each.push_back(static_cast<float>(values(random)));
      }
      ElementwiseOptions options;
      options.inputs = {"a", "b", "c"};
      const auto kernel = elementwise(expression.text, options);
      const auto found = values_of(kernel(array_of(in[0]), array_of(in[1]), array_of(in[2])));
      for (int k = 0; k < kPoints; ++k) {
        const auto exact = expression.evaluate({in[0][k], in[1][k], in[2][k]});
        if (std::isnan(exact.value)) continue;
        ++compared;
        ASSERT_NEAR(found[k], exact.value, 1.01 * exact.error + 1e-30)
            << target << ": " << expression.text << "\n"
            << kernel.explain() << "at " << in[0][k] << ", " << in[1][k] << ", " << in[2][k];
      }
    }
    EXPECT_GT(compared, 20'000);
  });
}

/// Compares a random expression with what it is worth in float64; how often it could.
int compare_random(const std::string& target, std::mt19937_64& random, RandomKind kind,
                   mx::Dtype compute_dtype) {
  constexpr int kPoints = 165;
  std::uniform_real_distribution<double> values(-3, 3);
  const auto expression = random_expression(random, 4, 3, kind);
  std::vector<std::vector<float>> in(3);
  for (auto& each : in) {
    for (int k = 0; k < kPoints; ++k) each.push_back(static_cast<float>(values(random)));
  }
  ElementwiseOptions options;
  options.inputs = {"a", "b", "c"};
  options.compute_dtype = compute_dtype;
  const auto kernel = elementwise(expression.text, options);
  const auto found = values_of(kernel(array_of(in[0]), array_of(in[1]), array_of(in[2])));
  int compared = 0;
  for (int k = 0; k < kPoints && !::testing::Test::HasFailure(); ++k) {
    const auto exact = expression.evaluate({in[0][k], in[1][k], in[2][k]});
    if (std::isnan(exact.value)) continue;
    ++compared;
    EXPECT_NEAR(found[k], exact.value, 1.01 * exact.error)
        << target << ": " << expression.text << "\n"
        << kernel.explain() << "at " << in[0][k] << ", " << in[1][k] << ", " << in[2][k];
  }
  return compared;
}

TEST(KernelElementwise, SixteenBitTypesRoundEachOperation) {
  using kernel::Type;
  for_each_target([](const std::string& target) {
    std::mt19937_64 random(12);
    int of_types = 0, of_casts = 0;
    for (int i = 0; i < 600 && !::testing::Test::HasFailure(); ++i) {
      const bool half = i % 2 == 0;
      of_types += compare_random(target, random, {half ? Type::float16 : Type::bfloat16, false},
                                 half ? mx::float16 : mx::bfloat16);
      of_casts += compare_random(target, random, {Type::float32, true}, mx::float32);
    }
    EXPECT_GT(of_types, 30'000) << target;
    EXPECT_GT(of_casts, 30'000) << target;
  });
}

TEST(KernelElementwise, FusedFormsAreAccurate) {
  const auto softplus = [](double x) { return std::log1p(std::exp(x)); };
  struct Form {
    const char* text;
    std::function<double(double, double)> value;
    double ulps;
  };
  const std::vector<Form> forms{
      {"tanh(log(1 + exp(a)))", [&](double a, double) { return std::tanh(softplus(a)); }, 5},
      {"1 + tanh(a)", [](double a, double) { return 2 / (1 + std::exp(-2 * a)); }, 5},
      // Of the difference as it is rounded.
      {"exp(max(a, b) - 3 * 1.0f)",
       [](double a, double b) { return std::exp(double{static_cast<float>(std::fmax(a, b)) - 3}); },
       2},
      {"-0.5f * a * a", [](double a, double) { return -0.5 * a * a; }, 1},
      {"0.7f * a * a * a", [](double a, double) { return double{0.7f} * a * a * a; }, 2},
      // Products of three, alone and where a sum takes one.
      {"a * b * 3", [](double a, double b) { return a * b * 3; }, 2},
      {"a * (b * a)", [](double a, double b) { return a * b * a; }, 2},
      {"sqrt(a * a) * b * b", [](double a, double b) { return std::abs(a) * b * b; }, 2},
      {"abs(b) + 0.5f * a * a", [](double a, double b) { return std::abs(b) + 0.5 * a * a; }, 2},
      {"0.5f * a * a + b * b", [](double a, double b) { return 0.5 * a * a + b * b; }, 2},
      {"0.5f * a * a + 1", [](double a, double) { return 0.5 * a * a + 1; }, 2},
      {"0.5f * a * a + 0.5f * a * a", [](double a, double) { return a * a; }, 2},
  };
  for_each_target([&](const std::string& target) {
    const auto as = sweep(-20, 20, 500), bs = sweep(-3, 3, 500);
    for (const auto& form : forms) {
      ElementwiseOptions options;
      options.inputs = {"a", "b"};
      const auto found = values_of(elementwise(form.text, options)(array_of(as), array_of(bs)));
      for (size_t i = 0; i < as.size(); ++i) {
        const double exact = form.value(as[i], bs[i]);
        if (std::abs(exact) < 1e-36) continue;
        EXPECT_LE(ulps_between(found[i], exact), form.ulps)
            << target << ": " << form.text << " at " << as[i] << ", " << bs[i];
      }
    }
  });
}

TEST(KernelElementwise, ComparisonsChoose) {
  struct Form {
    const char* text;
    std::function<float(float, float)> value;
  };
  // With arguments and results in every place: read, computed just before or earlier, constants.
  const std::vector<Form> forms = {
      {"x < 0.5f ? y : x", [](float x, float y) { return x < 0.5f ? y : x; }},
      {"x <= 0.5f ? y : x", [](float x, float y) { return x <= 0.5f ? y : x; }},
      {"x > 0.5f ? y : x", [](float x, float y) { return x > 0.5f ? y : x; }},
      {"x >= 0.5f ? y : x", [](float x, float y) { return x >= 0.5f ? y : x; }},
      {"0.5f < x ? 1.0f : y", [](float x, float y) { return 0.5f < x ? 1.0f : y; }},
      {"0.5f <= x ? x : 1.0f", [](float x, float) { return 0.5f <= x ? x : 1.0f; }},
      {"-x < 0.5f ? 2.0f : 1.0f", [](float x, float) { return -x < 0.5f ? 2.0f : 1.0f; }},
      {"-x >= 0.5f ? -x : abs(y)", [](float x, float y) { return -x >= 0.5f ? -x : std::fabs(y); }},
      {"x < 0.5f ? -y : 1.0f", [](float x, float y) { return x < 0.5f ? -y : 1.0f; }},
      {"x < 0.5f ? -x : -y", [](float x, float y) { return x < 0.5f ? -x : -y; }},
      {"max(x, y) > 0.5f ? abs(x) : abs(y)",
       [](float x, float y) { return std::fmax(x, y) > 0.5f ? std::fabs(x) : std::fabs(y); }},
      {"(x < 0.5f) == (y < 0.5f) ? x : y",
       [](float x, float y) { return (x < 0.5f) == (y < 0.5f) ? x : y; }},
      {"x < y ? x : y - 1", [](float x, float y) { return x < y ? x : y - 1; }},
  };
  const std::vector<float> ends{0.5f,  -0.5f, 0.0f,     -0.0f,     1.0f,
                                -1.0f, 3.0f,  INFINITY, -INFINITY, NAN};
  std::vector<float> xs, ys;
  for (float x : ends) {
    for (float y : ends) {
      if (std::isnan(y)) continue;
      xs.push_back(x), ys.push_back(y);
    }
  }
  for_each_target([&](const std::string& target) {
    for (const auto& form : forms) {
      ElementwiseOptions options;
      options.inputs = {"x", "y"};
      const auto found = values_of(elementwise(form.text, options)(array_of(xs), array_of(ys)));
      for (size_t i = 0; i < xs.size(); ++i) {
        if (std::isnan(xs[i]) && form.text[0] == 'm') continue;  // MLX's max hands NaN on
        const double exact = form.value(xs[i], ys[i]);
        EXPECT_TRUE(found[i] == exact || (std::isnan(found[i]) && std::isnan(exact)))
            << target << ": " << form.text << " at " << xs[i] << ", " << ys[i];
      }
    }
  });
}

TEST(KernelElementwise, PolynomialsOfEveryLength) {
  for_each_target([](const std::string& target) {
    const auto xs = sweep(-1, 1, 200);
    for (int degree = 1; degree <= 22; ++degree) {
      // Once with a constant innermost, once with the argument itself, and with another array.
      for (const char* innermost : {"0.5f", "x", "y"}) {
        std::string text = innermost;
        for (int i = 0; i < degree; ++i) {
          text = "(" + text + " * x + " + std::to_string(0.25 + i % 3) + "f)";
        }
        ElementwiseOptions options;
        options.inputs = {"x", "y"};
        const auto found = values_of(elementwise(text, options)(
            array_of(xs), array_of(std::vector<float>(xs.size(), 0.75f))));
        for (size_t k = 0; k < xs.size(); ++k) {
          double exact = innermost[0] == 'x' ? xs[k] : innermost[0] == 'y' ? 0.75 : 0.5;
          double size = std::abs(exact);
          for (int i = 0; i < degree; ++i) {
            exact = exact * xs[k] + 0.25 + i % 3;
            size = size * std::abs(xs[k]) + 0.25 + i % 3;
          }
          ASSERT_NEAR(found[k], exact, 1e-6 * size) << target << ": " << text << " at " << xs[k];
        }
      }
    }
  });
}

TEST(KernelElementwise, TakesEveryType) {
  for_each_target([](const std::string& target) {
    for (auto type : {mx::float32, mx::float16, mx::bfloat16, mx::int32, mx::uint32, mx::int8,
                      mx::uint8, mx::int16, mx::bool_}) {
      for (int n : {1, 3, 16, 100, 5000}) {
        auto x =
            mx::astype(mx::multiply(random_normal({n}, mx::float32, n), mx::array(50.0f)), type);
        if (type == mx::uint32 || type == mx::uint8) x = mx::astype(mx::abs(x), type);
        const auto found = elementwise("x * 0.5 + 1")(x);
        EXPECT_EQ(found.dtype(), type) << target;
        const auto wide = mx::astype(x, mx::float32);
        const auto exact =
            mx::astype(mx::add(mx::multiply(wide, mx::array(0.5f)), mx::array(1.0f)), type);
        EXPECT_TRUE(mx::array_equal(found, exact).item<bool>())
            << target << ", " << n << " of " << type;
      }
    }
  });
}

TEST(KernelElementwise, ComputesInIntegers) {
  ElementwiseOptions options;
  options.compute_dtype = mx::int32;
  const auto kernel = elementwise("(x * 1664525 + 1013904223) ^ (x >> 3) & 0xFF | x % 7", options);
  const std::vector<int> xs{0, 1, -1, 123456789, -987654321, 2147483647, -2147483647 - 1, 42};
  const auto found = kernel(mx::array(xs.data(), {8}, mx::int32));
  EXPECT_EQ(found.dtype(), mx::int32);
  std::vector<int> expected;
  for (int x : xs) {
    const auto product = static_cast<int32_t>(static_cast<uint32_t>(x) * 1664525u + 1013904223u);
    expected.push_back((product ^ ((x >> 3) & 0xFF)) | (x % 7));
  }
  EXPECT_TRUE(mx::array_equal(found, mx::array(expected.data(), {8}, mx::int32)).item<bool>());
  options.compute_dtype = mx::uint32;
  const auto rotate = elementwise("x << 13 | x >> 19", options);
  EXPECT_EQ(rotate(mx::array(0x80000001u, mx::uint32)).item<uint32_t>(), 0x3000u);
  options.compute_dtype = mx::int64;
  EXPECT_THROW(elementwise("x + 1", options), std::invalid_argument);
}

TEST(KernelElementwise, ReadsAnyStrides) {
  const auto x = random_normal({6, 7, 40}, mx::float32, 1);
  const auto y = random_normal({40, 7, 6}, mx::bfloat16, 2);
  const auto kernel = elementwise("a * b + 2 * a");
  const auto check = [&](const mx::array& a, const mx::array& b, const char* what) {
    const auto found = kernel(a, b);
    const auto wide_b = mx::astype(b, mx::float32);
    const auto expected = mx::add(mx::multiply(a, wide_b), mx::multiply(mx::array(2.0f), a));
    EXPECT_EQ(found.shape(), expected.shape()) << what;
    EXPECT_TRUE(mx::allclose(found, expected, 1e-6, 1e-6).item<bool>()) << what;
  };
  check(x, mx::transpose(y), "transposed");
  check(mx::transpose(x), y, "transposed, first");
  check(x, mx::slice(x, {0, 0, 0}, {6, 7, 1}), "last axis broadcast");
  check(mx::slice(x, {0, 0, 0}, {1, 7, 40}), x, "first axis broadcast");
  check(x, mx::array(3.0f), "a number");
  check(mx::slice(x, {0, 1, 3}, {6, 7, 40}, {2, 3, 5}), mx::slice(x, {1, 0, 0}, {4, 2, 8}),
        "steps");
  check(mx::slice(x, {5, 6, 39}, {-7, -8, -41}, {-1, -1, -1}), x, "backwards");
  check(mx::array(1.5f), mx::array(2.5f), "numbers");
  check(mx::zeros({0, 3}), mx::zeros({3}), "nothing");
  check(mx::swapaxes(mx::broadcast_to(mx::reshape(x, {6, 7, 40, 1}), {6, 7, 40, 3}), 0, 3),
        mx::zeros({3, 7, 40, 6}), "broadcast and swapped");
}

TEST(KernelElementwise, ArraysBeginAnywhereInACacheLine) {
  const auto x = random_normal({9000}, mx::float32, 3), y = random_normal({9000}, mx::float32, 4);
  mx::eval(x, y);
  const auto kernel = elementwise("a * 2 + b");
  for (auto type : {mx::float32, mx::bfloat16}) {
    const auto a = mx::astype(x, type), b = mx::astype(y, type);
    for (int first = 0; first < 33; ++first) {
      const int last = 8900 + first * 3;
      const auto found = kernel(mx::slice(a, {first}, {last}), mx::slice(b, {first}, {last}));
      const auto wide = mx::add(mx::multiply(mx::astype(a, mx::float32), mx::array(2.0f)),
                                mx::astype(b, mx::float32));
      const auto exact = mx::slice(mx::astype(wide, type), {first}, {last});
      EXPECT_TRUE(mx::array_equal(found, exact).item<bool>()) << type << " from " << first;
      // The result, which begins as its input does, is the next kernel's.
      const auto again = kernel(found, mx::slice(b, {0}, {last - first}));
      EXPECT_TRUE(mx::allclose(again,
                               mx::add(mx::multiply(exact, mx::array(2.0f)),
                                       mx::slice(b, {0}, {last - first})),
                               1e-2, 1e-2)
                      .item<bool>());
    }
  }
}

TEST(KernelElementwise, LargeArraysAreStreamedAndShared) {
  for (auto type : {mx::float32, mx::bfloat16, mx::float16}) {
    const auto x = random_normal({(5 << 20) + 13}, type, 4);
    const auto found = elementwise("x * x - 1")(x);
    const auto wide = mx::astype(x, mx::float32);
    const auto exact = mx::astype(mx::subtract(mx::multiply(wide, wide), mx::array(1.0f)), type);
    EXPECT_TRUE(mx::allclose(found, exact, 1e-2, type == mx::float32 ? 1e-6 : 1e-2).item<bool>());
  }
}

mx::array gradient_of(const Kernel& kernel, const mx::array& x) {
  return mx::grad([&](const mx::array& a) { return mx::sum(kernel(a)); })(x);
}

TEST(KernelElementwise, Differentiates) {
  const auto x = random_normal({1000}, mx::float32, 5);
  const auto silu = elementwise("x / (1 + exp(-x))");
  const auto stock = [](const mx::array& a) { return mx::sum(mx::multiply(a, mx::sigmoid(a))); };
  EXPECT_TRUE(mx::allclose(gradient_of(silu, x), mx::grad(stock)(x), 1e-5, 1e-6).item<bool>());
  const auto once = [&](const mx::array& a) { return mx::sum(gradient_of(silu, a)); };
  const auto stock_once = [&](const mx::array& a) { return mx::sum(mx::grad(stock)(a)); };
  EXPECT_TRUE(mx::allclose(mx::grad(once)(x), mx::grad(stock_once)(x), 1e-5, 1e-6).item<bool>());
  const auto f = [&](const std::vector<mx::array>& in) { return std::vector{silu(in[0])}; };
  const auto g = [&](const std::vector<mx::array>& in) {
    return std::vector{mx::multiply(in[0], mx::sigmoid(in[0]))};
  };
  const auto t = random_normal({1000}, mx::float32, 6);
  EXPECT_TRUE(
      mx::allclose(mx::jvp(f, {x}, {t}).second[0], mx::jvp(g, {x}, {t}).second[0], 1e-5, 1e-6)
          .item<bool>());
}

TEST(KernelElementwise, DifferentiatesBySeveralInputsOfSeveralTypes) {
  const auto gate = elementwise("a / (1 + exp(-a)) * b");
  const auto a = random_normal({8, 1, 64}, mx::bfloat16, 7);
  const auto b = random_normal({5, 64}, mx::float32, 8);
  const auto f = [&](const std::vector<mx::array>& in) { return mx::sum(gate(in[0], in[1])); };
  const auto g = [&](const std::vector<mx::array>& in) {
    const auto wide = mx::astype(in[0], mx::float32);
    return mx::sum(mx::multiply(mx::multiply(wide, mx::sigmoid(wide)), in[1]));
  };
  const auto found = mx::grad(f, std::vector<int>{0, 1})({a, b});
  const auto expected = mx::grad(g, std::vector<int>{0, 1})({a, b});
  EXPECT_EQ(found[0].dtype(), mx::bfloat16);
  EXPECT_EQ(found[0].shape(), a.shape());
  EXPECT_EQ(found[1].shape(), b.shape());
  EXPECT_TRUE(mx::allclose(found[0], expected[0], 2e-2, 2e-2).item<bool>());
  EXPECT_TRUE(mx::allclose(found[1], expected[1], 1e-4, 1e-4).item<bool>());
}

TEST(KernelElementwise, KinksFollowMlx) {
  const auto x = array_of({-1, 0, 0.5, 1, 2}), y = array_of({-1, 0, 1, 1, 1});
  const auto both = [](const auto& f, const mx::array& a, const mx::array& b) {
    return mx::grad([&](const std::vector<mx::array>& in) { return mx::sum(f(in[0], in[1])); },
                    std::vector<int>{0, 1})({a, b});
  };
  const auto larger = elementwise("max(a, b)"), smaller = elementwise("min(a, b)");
  const auto stock_larger = [](const mx::array& a, const mx::array& b) {
    return mx::maximum(a, b);
  };
  const auto stock_smaller = [](const mx::array& a, const mx::array& b) {
    return mx::minimum(a, b);
  };
  for (int i : {0, 1}) {
    EXPECT_TRUE(mx::array_equal(both(larger, x, y)[i], both(stock_larger, x, y)[i]).item<bool>());
    EXPECT_TRUE(mx::array_equal(both(smaller, x, y)[i], both(stock_smaller, x, y)[i]).item<bool>());
  }
  const auto absolute = mx::grad([](const mx::array& a) { return mx::sum(mx::abs(a)); });
  EXPECT_TRUE(mx::array_equal(gradient_of(elementwise("abs(x)"), x), absolute(x)).item<bool>());
}

TEST(KernelElementwise, AGivenDerivativeWins) {
  const auto x = array_of({0.5f, -1.0f, 2.0f});
  ElementwiseOptions options;
  options.grad_expr = {"g * y * 10"};
  EXPECT_TRUE(mx::allclose(gradient_of(elementwise("exp(x)", options), x),
                           mx::multiply(mx::exp(x), mx::array(10.0f)), 1e-5, 1e-6)
                  .item<bool>());
  options.grad_expr = {"let s = sigmoid(x); g * (s + x * s * (1 - s))"};
  options.use_output = false;
  const auto silu = elementwise("kk_silu(x)", options), derived = elementwise("silu(x)");
  EXPECT_TRUE(mx::allclose(gradient_of(silu, x), gradient_of(derived, x), 1e-5, 1e-6).item<bool>());
  // The second derivative is that of the given one.
  const auto twice = [](const Kernel& k, const mx::array& a) {
    return mx::grad([&](const mx::array& b) { return mx::sum(gradient_of(k, b)); })(a);
  };
  EXPECT_TRUE(mx::allclose(twice(silu, x), twice(derived, x), 1e-5, 1e-6).item<bool>());
  options.grad_expr = {"g * y"};
  EXPECT_THROW(elementwise("exp(x)", options), std::invalid_argument);
}

TEST(KernelElementwise, WorksUnderVmapAndCompile) {
  const auto kernel = elementwise("a * tanh(b)");
  const auto a = random_normal({4, 5, 6}, mx::float32, 9),
             b = random_normal({6, 3}, mx::float32, 10);
  const auto f = [&](const std::vector<mx::array>& in) {
    return std::vector{kernel(in[0], in[1])};
  };
  const auto expected = mx::multiply(mx::expand_dims(mx::moveaxis(a, 1, 0), 3), mx::tanh(b));
  const auto mapped = mx::vmap(
      [&](const std::vector<mx::array>& in) {
        return std::vector{kernel(mx::expand_dims(in[0], 2), in[1])};
      },
      {1, -1}, {0})({a, b})[0];
  EXPECT_TRUE(mx::allclose(mapped, expected, 1e-5, 1e-6).item<bool>());
  const auto compiled = mx::compile(f);
  const auto c = random_normal({6}, mx::float32, 11);
  EXPECT_TRUE(mx::allclose(compiled({a, c})[0], f({a, c})[0]).item<bool>());
  EXPECT_TRUE(mx::allclose(compiled({a, c})[0], f({a, c})[0]).item<bool>());
}

TEST(KernelElementwise, ErrorsAreClear) {
  const auto message = [](const auto& f) {
    try {
      f();
    } catch (const std::invalid_argument& error) {
      return std::string(error.what());
    }
    return std::string();
  };
  EXPECT_EQ(message([] { elementwise("x +"); }),
            "[elementwise] column 4: expected an expression, but found the end\n  x +\n     ^");
  EXPECT_EQ(message([] { elementwise("1 + 2"); }),
            "[elementwise] the expression '1 + 2' has no inputs; name at least one, or give "
            "`inputs`.");
  ElementwiseOptions options;
  options.inputs = {"x"};
  options.name = "shift";
  EXPECT_EQ(message([&] { elementwise("x + y", options); }),
            "[elementwise] column 5: there is no 'y' here; there is x\n  x + y\n      ^");
  const auto shift = elementwise("x + 1", options);
  EXPECT_EQ(message([&] { shift(mx::array(1.0f), mx::array(2.0f)); }),
            "[shift] takes 1 array, not 2.");
  EXPECT_EQ(message([&] { shift(mx::astype(mx::array(1.0f), mx::complex64)); }),
            "[shift] kernels take no complex arrays.");
  options.inputs = {"x", "exp"};
  EXPECT_NE(message([&] { elementwise("x", options); }).find("'exp' cannot be"), std::string::npos);
}

TEST(KernelElementwise, EqualDefinitionsAreOne) {
  clear_kernel_registry();
  ElementwiseOptions options;
  options.name = "registered";
  const auto first = elementwise("x * 3 + 1", options), second = elementwise("x * 3 + 1", options);
  EXPECT_EQ(first.definition(), second.definition());
  mx::eval(first(mx::array(1.0f)), second(mx::array(2.0f)));
  const auto records = kernel_registry();
  ASSERT_EQ(records.size(), 1u);
  EXPECT_EQ(records[0].name, "registered");
  EXPECT_EQ(records[0].formula, "x * 3 + 1");
  EXPECT_EQ(records[0].definitions, 2);
  EXPECT_EQ(records[0].calls, 2);
  EXPECT_EQ(records[0].compilations, 1);
  EXPECT_GT(records[0].compile_seconds, 0);
}

}  // namespace
}  // namespace zmlx::testing
