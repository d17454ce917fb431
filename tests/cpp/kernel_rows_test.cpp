#include <gtest/gtest.h>

#include "oracle.h"
#include "zmlx/zmlx.h"

namespace zmlx::testing {
namespace {

using Arrays = std::vector<mx::array>;

MapReduceOptions softmax_options() {
  MapReduceOptions options;
  options.pass1 = {"-INFINITY", "max(acc1, x)", "max(a, b)"};
  options.pass2 = {"0.0f", "acc2 + exp(x - s1)", "a + b"};
  options.write = "exp(x - s1) / s2";
  return options;
}
/// Mean and variance in one walk each; D is not known to a formula, so counts are summed.
MapReduceOptions norm_options() {
  MapReduceOptions options;
  options.pass1 = {"0", "acc1 + x * x", "a + b"};
  options.pass2 = {"0", "acc2 + 1", "a + b"};
  options.write = "x * rsqrt(s1 / s2 + 1e-5f)";
  return options;
}
Kernel norm2() { return reduce({"0", "acc + v * v", "sqrt(s)", "norm2", {}}); }

mx::array stock_norm(const mx::array& x) {
  const auto mean = mx::mean(mx::square(x), -1, true);
  return mx::multiply(x, mx::rsqrt(mx::add(mean, mx::array(1e-5f))));
}
mx::array stock_norm2(const mx::array& x) { return mx::sqrt(mx::sum(mx::square(x), -1)); }

void expect_close(const mx::array& found, const mx::array& expected, const std::string& what,
                  double tolerance = 2e-6) {
  ASSERT_EQ(found.shape(), expected.shape()) << what;
  const auto scale = mx::max(mx::abs(expected));
  const auto error = mx::divide(mx::max(mx::abs(mx::subtract(found, expected))),
                                mx::add(scale, mx::array(1e-30f)));
  EXPECT_LE(mx::astype(error, mx::float32).item<float>(), tolerance) << what;
}

TEST(KernelRows, SoftmaxAndNormsOfEveryLength) {
  const auto softmax = map_reduce(softmax_options()), norm = map_reduce(norm_options());
  for_each_target([&](const std::string& target) {
    for (int D : {1, 2, 7, 16, 47, 48, 64, 100, 1024, 1025, 5000, 32768}) {
      const auto x = random_normal({3, 5, D}, mx::float32, D);
      const auto what = target + ", D " + std::to_string(D);
      const auto exact = mx::astype(x, mx::float64);
      expect_close(softmax(x), mx::softmax(exact, -1), what + ", softmax", 1e-6);
      expect_close(norm(x), stock_norm(exact), what + ", norm", 1e-6);
      expect_close(norm2()(x), stock_norm2(exact), what + ", norm2", 1e-6);
    }
  });
}

TEST(KernelRows, ManyRowsInOneWalk) {
  // More rows than results wait together, of whole tiles, and passes that do not begin with
  // nothing.
  const auto sum = reduce({"1.5f", "acc + v * v", "sqrt(s)", "", {}});
  const auto most = reduce({"0.25f", "max(acc, v)", "s * 2", "", {}});
  for_each_target([&](const std::string& target) {
    for (auto type : {mx::float32, mx::bfloat16}) {
      for (int D : {128, 256, 1024}) {
        const auto x = random_normal({3, 131, D}, type, D);
        const auto exact = mx::astype(x, mx::float64);
        const auto what = target + ", D " + std::to_string(D);
        const double tolerance = type == mx::float32 ? 1e-6 : 4e-3;
        const auto squares = mx::add(mx::sum(mx::square(exact), -1), mx::array(1.5, mx::float64));
        expect_close(sum(x), mx::sqrt(squares), what + ", sum", tolerance);
        const auto largest = mx::maximum(mx::max(exact, -1), mx::array(0.25, mx::float64));
        expect_close(most(x), mx::multiply(largest, mx::array(2.0, mx::float64)), what + ", max",
                     tolerance);
      }
    }
  });
}

TEST(KernelRows, LongRowsBeginAnywhereInACacheLine) {
  // Whole lines go without what is before and behind them; rows whose ends differ do not.
  const auto softmax = map_reduce(softmax_options());
  for_each_target([&](const std::string& target) {
    for (auto type : {mx::float32, mx::bfloat16}) {
      for (int D : {16384, 16416, 20000, 20001, 32768}) {
        const auto flat = random_normal({6 * D + 32}, type, D);
        mx::eval(flat);
        for (int first : {0, 1, 2, 5, 10, 20}) {
          const auto x = mx::reshape(mx::slice(flat, {first}, {first + 6 * D}), {6, D});
          const auto found = softmax(x);
          const auto exact = mx::softmax(mx::astype(x, mx::float64), -1);
          expect_close(found, exact, target + ", D " + std::to_string(D),
                       type == mx::float32 ? 1e-6 : 4e-3);
          const auto sums = mx::sum(mx::astype(found, mx::float32), -1);
          expect_close(sums, mx::ones({6}), target + ", sum", type == mx::float32 ? 1e-5 : 4e-3);
        }
      }
    }
  });
}

TEST(KernelRows, KeepsWhatLaterStagesNeed) {
  // exp(x) is kept over a stage in between, while other rows pass through it.
  MapReduceOptions options;
  options.pass1 = {"0", "acc1 + exp(x)", "a + b"};
  options.pass2 = {"-INFINITY", "max(acc2, x / s1)", "max(a, b)"};
  options.write = "exp(x) * s2";
  const auto kernel = map_reduce(options);
  for_each_target([&](const std::string& target) {
    for (int D : {64, 100, 256, 1000, 4096}) {
      const auto x = random_normal({77, D}, mx::float32, D);
      const auto e = mx::exp(mx::astype(x, mx::float64));
      const auto s1 = mx::sum(e, -1, true);
      const auto s2 = mx::max(mx::divide(mx::astype(x, mx::float64), s1), -1, true);
      expect_close(kernel(x), mx::multiply(e, s2), target + ", D " + std::to_string(D), 1e-6);
    }
  });
}

TEST(KernelRows, SixteenBitTypesRoundOnce) {
  const auto softmax = map_reduce(softmax_options());
  for (auto type : {mx::float16, mx::bfloat16}) {
    const auto x = random_normal({10, 300}, type, 1);
    const auto wide = mx::softmax(mx::astype(x, mx::float32), -1);
    const auto found = softmax(x);
    EXPECT_EQ(found.dtype(), type);
    const auto error = mx::abs(mx::subtract(mx::astype(found, mx::float32), wide));
    const float half_unit = type == mx::float16 ? 0x1p-11f : 0x1p-8f;
    // float16's subnormal numbers lie 2^-24 apart.
    const auto bound = mx::add(mx::multiply(wide, mx::array(1.01f * half_unit)),
                               mx::array(type == mx::float16 ? 0x1p-25f : 0.0f));
    EXPECT_TRUE(mx::all(mx::less_equal(error, bound)).item<bool>())
        << mx::max(mx::divide(error, wide)).item<float>();
  }
}

TEST(KernelRows, ReadsAnyStrides) {
  const auto softmax = map_reduce(softmax_options());
  const auto x = random_normal({6, 70, 80}, mx::float32, 2);
  for (const auto& each : {mx::swapaxes(x, 1, 2), mx::slice(x, {0, 0, 0}, {6, 70, 80}, {2, 3, 1}),
                           mx::slice(x, {5, 0, 79}, {-7, 70, -81}, {-1, 1, -1}),
                           mx::broadcast_to(mx::slice(x, {0, 0, 0}, {6, 1, 80}), {6, 9, 80}),
                           mx::slice(x, {0, 0, 3}, {6, 70, 20})}) {
    expect_close(softmax(each), mx::softmax(each, -1), "softmax");
    expect_close(norm2()(each), stock_norm2(each), "norm2");
  }
}

TEST(KernelRows, ReducesByEveryOperation) {
  const auto x = random_normal({4, 3, 200}, mx::float32, 3);
  const auto of = [&](const char* init, const char* update) {
    return reduce({init, update, "acc", "", {}})(x);
  };
  expect_close(of("0", "acc + v"), mx::sum(x, -1), "sum", 1e-5);
  expect_close(of("2.5", "v + acc"), mx::add(mx::sum(x, -1), mx::array(2.5f)), "sum from 2.5",
               1e-5);
  expect_close(of("-INFINITY", "max(acc, v)"), mx::max(x, -1), "max", 0);
  expect_close(of("0.5f", "min(acc, v)"), mx::minimum(mx::min(x, -1), mx::array(0.5f)), "min", 0);
  const auto near_one = mx::add(mx::multiply(x, mx::array(0.01f)), mx::array(1.0f));
  expect_close(reduce({"1", "acc * v", "acc", "", {}})(near_one), mx::prod(near_one, -1), "prod",
               1e-5);
  const auto k = mx::astype(mx::multiply(x, mx::array(100.0f)), mx::int32);
  ReduceOptions xor_all{"0", "acc ^ v", "acc", "", mx::int32};
  auto expected = mx::zeros({4, 3}, mx::int32);
  for (int i = 0; i < 200; ++i) expected = mx::bitwise_xor(expected, mx::take(k, i, 2));
  EXPECT_TRUE(mx::array_equal(reduce(xor_all)(k), expected).item<bool>());
}

TEST(KernelRows, OtherUpdatesTakeElementsInOrder) {
  for (int D : {5, 300}) {
    const auto x = random_normal({200, D}, mx::float32, 4);
    auto expected = mx::zeros({200});
    for (int i = 0; i < D; ++i) {
      expected = mx::add(mx::multiply(expected, mx::array(0.5f)), mx::take(x, i, 1));
    }
    const auto horner = reduce({"0", "acc * 0.5f + v", "acc", "horner", {}});
    expect_close(horner(x), expected, "horner");
    EXPECT_TRUE(throws_invalid(
        [&] { mx::eval(mx::grad([&](const mx::array& a) { return mx::sum(horner(a)); })(x)); },
        {"[horner]", "has no derivative"}));
  }
}

TEST(KernelRows, ShapesAreThoseOfThePythonPackage) {
  EXPECT_EQ(norm2()(mx::ones({7})).shape(), (mx::Shape{1}));
  EXPECT_EQ(norm2()(mx::ones({2, 7})).shape(), (mx::Shape{2}));
  EXPECT_EQ(norm2()(mx::ones({0, 7})).shape(), (mx::Shape{0}));
  EXPECT_TRUE(throws_invalid([] { norm2()(mx::array(1.0f)); }, {"[norm2]", "works on rows"}));
  EXPECT_TRUE(throws_invalid([] { norm2()(mx::ones({2, 0})); }, {"[norm2]", "works on rows"}));
}

/// Values, derivatives by both modes and second derivatives against MLX's.
void expect_same_calculus(const std::function<mx::array(const mx::array&)>& own,
                          const std::function<mx::array(const mx::array&)>& stock,
                          const mx::array& x, const std::string& what) {
  const auto w = random_normal(stock(x).shape(), mx::float32, 99);
  const auto t = random_normal(x.shape(), mx::float32, 98);
  const auto gradient = [&](const auto& f) {
    return mx::grad([&](const mx::array& a) { return mx::sum(mx::multiply(f(a), w)); })(x);
  };
  expect_close(gradient(own), gradient(stock), what + ", vjp", 1e-5);
  const auto tangent = [&](const auto& f) {
    return mx::jvp([&](const Arrays& in) { return Arrays{f(in[0])}; }, {x}, {t}).second[0];
  };
  expect_close(tangent(own), tangent(stock), what + ", jvp", 1e-5);
  const auto second = [&](const auto& f) {
    return mx::grad([&](const mx::array& b) {
      const auto inner =
          mx::grad([&](const mx::array& a) { return mx::sum(mx::multiply(f(a), w)); })(b);
      return mx::sum(mx::multiply(inner, t));
    })(x);
  };
  expect_close(second(own), second(stock), what + ", second", 1e-4);
}

TEST(KernelRows, Differentiates) {
  const auto softmax = map_reduce(softmax_options()), norm = map_reduce(norm_options());
  for (int D : {5, 100, 1500}) {
    const auto x = random_normal({4, D}, mx::float32, D);
    const auto what = "D " + std::to_string(D);
    expect_same_calculus([&](const mx::array& a) { return softmax(a); },
                         [](const mx::array& a) { return mx::softmax(a, -1); }, x,
                         what + ", softmax");
    expect_same_calculus([&](const mx::array& a) { return norm(a); }, stock_norm, x,
                         what + ", norm");
    expect_same_calculus([](const mx::array& a) { return norm2()(a); }, stock_norm2, x,
                         what + ", norm2");
  }
}

TEST(KernelRows, TiesShareTheGradientAsMlxHasIt) {
  const float values[] = {1, 3, 3, -2, 3, 0, /**/ -1, -5, 0, 4, 4, 2};
  const auto x = mx::array(values, {2, 6});
  const auto gradient = [&](const auto& f) {
    return mx::grad([&](const mx::array& a) { return mx::sum(f(a)); })(x);
  };
  const auto largest = reduce({"-INFINITY", "max(acc, v)", "acc", "", {}});
  expect_close(gradient(largest), gradient([](const mx::array& a) { return mx::max(a, -1); }),
               "max", 1e-6);
  const auto least = reduce({"INFINITY", "min(acc, v)", "acc", "", {}});
  expect_close(gradient(least), gradient([](const mx::array& a) { return mx::min(a, -1); }), "min",
               1e-6);
  const auto product = reduce({"1", "acc * v", "acc", "", {}});
  expect_close(gradient(product), gradient([](const mx::array& a) { return mx::prod(a, -1); }),
               "prod", 1e-6);
}

TEST(KernelRows, WorksUnderVmapAndCompile) {
  const auto softmax = map_reduce(softmax_options());
  const auto x = random_normal({6, 50, 4}, mx::float32, 5);
  const auto mapped = mx::vmap([&](const mx::array& a) { return softmax(a); }, 2, 0)(x);
  expect_close(mapped, mx::softmax(mx::moveaxis(x, 2, 0), -1), "vmap");
  const auto norms = mx::vmap([](const mx::array& a) { return norm2()(a); }, 0, 0)(x);
  expect_close(norms, stock_norm2(x), "vmap of reduce");
  const auto f = mx::compile([&](const Arrays& in) { return Arrays{softmax(in[0])}; });
  for (int i = 0; i < 2; ++i) expect_close(f({x})[0], mx::softmax(x, -1), "compile");
}

TEST(KernelRows, LargeArraysAreStreamed) {
  const auto softmax = map_reduce(softmax_options());
  const auto x = random_normal({5000, 1024}, mx::float32, 6);
  expect_close(softmax(x), mx::softmax(x, -1), "softmax");
}

TEST(KernelRows, ErrorsSayWhichPart) {
  auto options = softmax_options();
  options.pass2.update = "acc2 + exp(x - s2)";
  EXPECT_TRUE(throws_invalid([&] { map_reduce(options); },
                             {"[map_reduce] pass2 update, column 16: there is no 's2' here", "^"}));
  options = softmax_options();
  options.pass1.reduce = "a + b";
  EXPECT_TRUE(throws_invalid([&] { map_reduce(options); },
                             {"pass1 reduce 'a + b' does not go with its update 'max(acc1, x)'"}));
  options = softmax_options();
  options.threadgroup = 100;
  EXPECT_TRUE(throws_invalid([&] { map_reduce(options); }, {"power of two", "100"}));
  EXPECT_TRUE(throws_invalid([] { reduce({"v", "acc + v", "acc", "", {}}); },
                             {"[reduce] init, column 1: there is no 'v' here"}));
}

}  // namespace
}  // namespace zmlx::testing
