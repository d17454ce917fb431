#include <gtest/gtest.h>

#include "kernel/half_types.h"
#include "kernel/parser.h"
#include "kernel_random.h"

namespace zmlx::testing {
namespace {

using namespace kernel;

/// A parsed expression whose names are its own.
struct Parsed {
  explicit Parsed(const std::string& source) {
    scope.open = true;
    root = parse(source, tree, scope);
  }
  std::string text() const { return to_string(tree, root, scope.variables); }
  double at(const std::vector<double>& inputs) const { return evaluate(tree, root, inputs); }
  Tree tree;
  Scope scope;
  NodeId root;
};

std::string error_of(const std::string& source) {
  try {
    Parsed parsed(source);
  } catch (const SyntaxError& error) {
    return error.what();
  }
  return "parsed";
}

TEST(KernelParser, PrecedenceIsThatOfC) {
  EXPECT_EQ(Parsed("a + b * c").text(), "(a + (b * c))");
  EXPECT_EQ(Parsed("a - b - c").text(), "((a - b) - c)");
  EXPECT_EQ(Parsed("-a * b").text(), "(-(a) * b)");
  EXPECT_EQ(Parsed("a < b == c < d").text(), "(int((a < b)) == int((c < d)))");
  EXPECT_EQ(Parsed("a < b && c < d || !(a < c)").text(), "(((a < b) && (c < d)) || !((a < c)))");
  EXPECT_EQ(Parsed("a < b ? c : a < c ? b : a").text(), "((a < b) ? c : ((a < c) ? b : a))");
  EXPECT_EQ(Parsed("int(a) | int(b) & 3 << 1").text(), "(int(a) | (int(b) & 6))");
}

TEST(KernelParser, TypesConvertAsInC) {
  EXPECT_DOUBLE_EQ(Parsed("x + 1 / 2").at({3}), 3);
  EXPECT_DOUBLE_EQ(Parsed("x + 1.0 / 2").at({3}), 3.5);
  EXPECT_DOUBLE_EQ(Parsed("x * (T)1 / 2").at({3}), 1.5);
  EXPECT_DOUBLE_EQ(Parsed("x + (2 > 1) + true").at({3}), 5);
  EXPECT_DOUBLE_EQ(Parsed("x + 0x10 + 3u + 1e1f + 2h").at({1}), 32);
  EXPECT_DOUBLE_EQ(Parsed("x + (-1 >> 1) + (-7 / 2) + (-7 % 3)").at({0}), -1 - 3 - 1);
  EXPECT_DOUBLE_EQ(Parsed("x + (0u - 1u > 5 ? 1 : 0)").at({0}), 1);
  EXPECT_DOUBLE_EQ(Parsed("x + (0x80000000 > 1 ? 1 : 0) + 4294967295").at({0}), 4294967297.0);
  EXPECT_DOUBLE_EQ(Parsed("x + .5 + 1. + 2.5e-1f + 1E2").at({0}), 101.75);
  EXPECT_DOUBLE_EQ(Parsed("x + int(3.9) + int(-3.9) + int(NAN)").at({0}), 0);
  EXPECT_DOUBLE_EQ(Parsed("x + 1 / 0 + (2147483647 + 1)").at({0}), -2147483648.0);
}

TEST(KernelParser, SixteenBitTypesConvertAsInC) {
  const auto type_of = [](const std::string& source) {
    Parsed parsed(source);
    return std::string(type_name(parsed.tree.type(parsed.root)));
  };
  EXPECT_EQ(type_of("half(x)"), "half");
  EXPECT_EQ(type_of("(bfloat)x"), "bfloat");
  EXPECT_EQ(type_of("static_cast<float16_t>(x) + 1"), "half");
  EXPECT_EQ(type_of("2h * 3u"), "half");
  EXPECT_EQ(type_of("2bf * true"), "bfloat");
  EXPECT_EQ(type_of("2h * 2bf"), "float");
  EXPECT_EQ(type_of("2h * x"), "float");
  EXPECT_EQ(type_of("half(x) * 2.0"), "float");
  EXPECT_EQ(type_of("exp(half(x))"), "half");
  EXPECT_EQ(type_of("max(half(x), 0)"), "half");
  EXPECT_EQ(type_of("pow(half(x), 2.0f)"), "float");
  EXPECT_EQ(type_of("x > 0 ? half(x) : 0"), "half");
  EXPECT_EQ(type_of("gelu_tanh(half(x))"), "half");
  EXPECT_EQ(type_of("half(x) < 1"), "bool");
  EXPECT_EQ(type_of("half h = x; bfloat16_t b = h; b"), "bfloat");
}

TEST(KernelParser, CastsTo16BitsStay) {
  EXPECT_EQ(Parsed("half(x)").text(), "half(x)");
  EXPECT_EQ(Parsed("float(half(x))").text(), "float(half(x))");
  EXPECT_EQ(Parsed("half(float(half(x)))").text(), "half(x)");
  EXPECT_EQ(Parsed("bfloat(half(x))").text(), "bfloat(half(x))");
  EXPECT_EQ(Parsed("half(0.1f)").text(), "0.0999755859");
  EXPECT_EQ(Parsed("half(1e-7f) + bfloat(1e-40f) + half(70000)").text(), "inf");
  EXPECT_EQ(Parsed("bfloat(1.00390625f) * 256").text(), "256");  // halves to even
  EXPECT_EQ(Parsed("bfloat(1.01171875f) * 256").text(), "260");
  // Each operation is rounded, but what is computed at once.
  EXPECT_EQ(Parsed("pow(half(x), 3)").text(), "pow(half(x), 3)");
  EXPECT_EQ(Parsed("log(1 + exp(half(x)))").text(), "softplus(half(x))");
  EXPECT_EQ(Parsed("log(1 + half(exp(x)))").text(), "log1p(half(exp(x)))");
  Tree computed;
  const Parsed product("half(x) * half(y) + bfloat(x)");
  const auto root = without_half_types(product.tree, {product.root}, computed)[0];
  EXPECT_EQ(to_string(computed, root, product.scope.variables),
            "(half((half(x) * half(y))) + bfloat(x))");
}

TEST(KernelParser, FormulasOfThePythonPackageRun) {
  // Each as it stands in PyPI zmlx 0.10's kernels.
  const std::vector<double> at{0.5, 0.25, 1.5, 0.75};
  for (const char* source :
       {"kk_sigmoid(x)", "x * kk_sigmoid(x)", "kk_silu(x)", "kk_gelu_tanh(x)", "metal::exp(x)",
        "metal::log(metal::exp(x) + (T)1.0)", "metal::max(x, (T)0) * metal::max(x, (T)0)",
        "x * metal::tanh(metal::log(metal::exp(x) + (T)1.0))",
        "(x > (T)0) ? x : (T)0.5 * (metal::exp(x) - (T)1.0)", "g * ((T)1 - y * y)",
        "(x > (T)0) ? (T)2 * x * g : (T)0", "g * (s + x * s * ((T)1 - s))",
        "(x - s1) - metal::log(s2)", "metal::exp(x - s1) / s2", "-INFINITY", "0.0f",
        "metal::precise::exp(x)", "static_cast<float>(x) + M_PI_F", "select(a, b, a > b)"}) {
    EXPECT_NO_THROW(Parsed{source}) << source;
  }
  EXPECT_NEAR(Parsed("kk_gelu_tanh(x)").at({0.5}), 0.345714, 1e-6);
  EXPECT_DOUBLE_EQ(Parsed("select(a, b, a > b)").at({2, 1}), 1);
  EXPECT_DOUBLE_EQ(Parsed("where(a > b, a, b)").at({2, 1}), 2);
}

TEST(KernelParser, NamesAreInputsInTheOrderOfTheirAppearance) {
  const Parsed parsed("b * let_x + a / (b + exp(c1))");
  EXPECT_EQ(parsed.scope.variables, (std::vector<std::string>{"b", "let_x", "a", "c1"}));
}

TEST(KernelParser, BindingsAreComputedOnce) {
  const Parsed bound("let t = exp(x); T u = t + 1; return t / (u * u);");
  const Parsed plain("exp(x) / ((exp(x) + 1) * (1 + exp(x)))");
  EXPECT_EQ(bound.text(), plain.text());
  EXPECT_EQ(reachable(plain.tree, {plain.root}).size(), plain.tree.size());
  EXPECT_DOUBLE_EQ(Parsed("const float h = 2.5; int n = h; x * n").at({3}), 6);
}

TEST(KernelParser, UnstableFormsBecomeStableOnes) {
  EXPECT_EQ(Parsed("log(1 + exp(x))").text(), "softplus(x)");
  EXPECT_EQ(Parsed("log(exp(x) + 1.0f)").text(), "softplus(x)");
  EXPECT_EQ(Parsed("1 / (1 + exp(-x))").text(), "sigmoid(x)");
  EXPECT_EQ(Parsed("a / (1 + exp(-a)) * b").text(), "((a * sigmoid(a)) * b)");
  EXPECT_EQ(Parsed("exp(x) / (1 + exp(x))").text(), "sigmoid(x)");
  EXPECT_EQ(Parsed("exp(x) - 1").text(), "expm1(x)");
  EXPECT_EQ(Parsed("1 - erf(x)").text(), "erfc(x)");
  EXPECT_EQ(Parsed("log(x + 1)").text(), "log1p(x)");
  EXPECT_EQ(Parsed("1 / sqrt(x)").text(), "rsqrt(x)");
  EXPECT_EQ(Parsed("pow(x, 2)").text(), "(x * x)");
}

TEST(KernelParser, WhatMayBeNaNIsNotSimplifiedAway) {
  EXPECT_EQ(Parsed("x * 0").text(), "(x * 0)");
  EXPECT_EQ(Parsed("x - x").text(), "(x - x)");
  EXPECT_EQ(Parsed("x / x").text(), "(x / x)");
  EXPECT_EQ(Parsed("x == x ? a : b").text(), "((x == x) ? a : b)");
}

TEST(KernelParser, ErrorsSayWhereAndWhat) {
  EXPECT_EQ(error_of("x * (1 + )"),
            "column 10: expected an expression, but found ')'\n"
            "  x * (1 + )\n"
            "           ^");
  EXPECT_EQ(error_of("exp(x"),
            "column 6: expected ',' or ')' in the call of 'exp', but found the end\n"
            "  exp(x\n"
            "       ^");
  EXPECT_EQ(error_of("x +\n  (y * 2"),
            "line 2, column 9: expected ')' to match the '(' in column 3, but found the end\n"
            "    (y * 2\n"
            "          ^");
  EXPECT_EQ(error_of("x = 3"),
            "column 3: expected an operator or the end, but found '='\n"
            "  x = 3\n"
            "    ^");
  EXPECT_EQ(error_of("1 + \xC3\xA9x"),
            "column 5: '\xC3\xA9' has no meaning in an expression\n"
            "  1 + \xC3\xA9x\n"
            "      ^");
}

TEST(KernelParser, ErrorsHelp) {
  const auto expect = [](const char* source, const char* part) {
    EXPECT_NE(error_of(source).find(part), std::string::npos) << source << "\n" << error_of(source);
  };
  expect("expf(x)", "there is no function 'expf'; there is exp, exp10, exp2, expm1");
  expect("exp(x, y)", "'exp' takes 1 argument, not 2");
  expect("x % 2.0", "'%' needs integers, not float; of floats, call fmod");
  expect("~x", "'~' needs an integer, not float");
  expect("x & 1", "'&' needs integers, not float");
  expect("exp + 1", "'exp' is a function: expected '(' after it");
  expect("double(x)", "'double' is not a type here");
  expect("x + 65520h", "column 5: the number 65520h is out of range");
  expect("half(x) & 1", "'&' needs integers, not float");
  expect("select(a, b, c)", "the third argument of select(a, b, condition) must be bool");
  expect("let exp = 2; exp", "'exp' has a meaning already");
  expect("1.2.3", "'1.2.3' is not a number");
  expect("1e", "'1e' is not a number");
  expect("1e999", "the number 1e999 is out of range");
  expect("4294967296", "needs over 32 bits");
  expect("", "expected an expression, but found the end");
  expect("x ? 1", "expected ':' of '?', but found the end");
  expect("asm(\"nop\")", "'\"' has no meaning");
  expect("x; } void f() {", "'}' has no meaning");
  expect("x; y", "expected an operator or the end, but found 'y'");
}

TEST(KernelParser, DepthAndSizeAreBounded) {
  const std::string deep(10'000, '(');
  EXPECT_NE(error_of(deep + "x").find("more than 200 deep"), std::string::npos);
  EXPECT_NE(error_of(std::string(10'000, '-') + "x").find("more than 200 deep"), std::string::npos);
  std::string choice;
  for (int i = 0; i < 1000; ++i) choice += "x > 1 ? ";
  EXPECT_NE(error_of(choice).find("more than 200 deep"), std::string::npos);
  EXPECT_NE(error_of(std::string(100'000, ' ') + "x").find("at most 65536 characters"),
            std::string::npos);
  std::string long_sum = "x";
  for (int i = 0; i < 10'000; ++i) long_sum += "+x";
  EXPECT_EQ(error_of(long_sum), "parsed");
  std::string distinct = "x";
  for (int i = 0; i < 11'000; ++i) distinct += "+" + std::to_string(i) + "/x";
  EXPECT_EQ(error_of(distinct).find("column"), 0u);
}

TEST(KernelParser, RandomExpressionsMeanWhatTheyDidBeforeSimplification) {
  std::mt19937_64 random(1);
  std::uniform_real_distribution<double> values(-3, 3);
  int compared = 0;
  for (int i = 0; i < 5000; ++i) {
    const auto expression = random_expression(random, 5, 3);
    Tree tree;
    Scope scope;
    for (const char* name : {"a", "b", "c"}) scope.declare(tree, name, Type::float32);
    const NodeId root = parse(expression.text, tree, scope);
    for (int repeat = 0; repeat < 4; ++repeat) {
      const std::vector<double> at{values(random), values(random), values(random)};
      const auto expected = expression.evaluate(at);
      if (!std::isfinite(expected.value)) continue;
      ++compared;
      ASSERT_NEAR(evaluate(tree, root, at), expected.value,
                  std::max(expected.error, 1e-5 * std::abs(expected.value)))
          << expression.text << "\n"
          << to_string(tree, root, scope.variables);
    }
  }
  EXPECT_GT(compared, 8000);
}

}  // namespace
}  // namespace zmlx::testing
