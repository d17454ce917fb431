#include <gtest/gtest.h>

#include "kernel/derivative.h"
#include "kernel/half_types.h"
#include "kernel/parser.h"
#include "kernel_random.h"

namespace zmlx::testing {
namespace {

using namespace kernel;

std::string derivative_of(const std::string& source) {
  Tree tree;
  Scope scope;
  scope.open = true;
  const NodeId root = parse(source, tree, scope);
  return to_string(tree, derivative(tree, root, 0), scope.variables);
}

double derivative_at(const std::string& source, const std::vector<double>& at, int variable = 0) {
  Tree tree;
  Scope scope;
  scope.open = true;
  const NodeId root = parse(source, tree, scope);
  return evaluate(tree, derivative(tree, root, variable), at);
}

TEST(KernelDerivative, IsSimple) {
  EXPECT_EQ(derivative_of("x * x"), "(x + x)");
  EXPECT_EQ(derivative_of("3 * x + 2"), "3");
  EXPECT_EQ(derivative_of("y - y * 1"), "0");
  EXPECT_EQ(derivative_of("exp(2 * x)"), "(exp((x * 2)) * 2)");
  EXPECT_EQ(derivative_of("log(1 + exp(x))"), "sigmoid(x)");
  EXPECT_EQ(derivative_of("erfc(x)"), "(exp(-((x * x))) * -1.12837923)");
  EXPECT_EQ(derivative_of("cbrt(x)"), "(0.333333343 / (cbrt(x) * cbrt(x)))");
  EXPECT_EQ(derivative_of("floor(x) + round(x)"), "0");
  EXPECT_EQ(derivative_of("ldexp(x * x, 3)"), "ldexp((x + x), 3)");
  EXPECT_EQ(derivative_of("ldexp(2, x)"), "0");
  EXPECT_EQ(derivative_of("float(ilogb(x))"), "0");
  EXPECT_EQ(derivative_of("nextafter(x * x, 1)"), "(x + x)");
  EXPECT_EQ(derivative_of("nextafter(1, x)"), "0");
  EXPECT_EQ(derivative_of("float(int(x)) * 2"), "0");
}

TEST(KernelDerivative, RoundingTo16BitsIsTakenForTheIdentity) {
  const auto derivative_in_float = [](const std::string& source) {
    Tree written, tree;
    Scope scope;
    scope.open = true;
    const NodeId parsed = parse(source, written, scope);
    const NodeId root = without_half_types(written, {parsed}, tree)[0];
    return to_string(tree, derivative(tree, root, 0), scope.variables);
  };
  EXPECT_EQ(derivative_in_float("half(x)"), "1");
  EXPECT_EQ(derivative_in_float("half(x) * bfloat(x)"), "(half(x) + bfloat(x))");
  EXPECT_EQ(derivative_in_float("exp(half(3 * x))"), "(exp(half((x * 3))) * 3)");
  EXPECT_EQ(derivative_in_float("log(1 + exp(half(x)))"), "sigmoid(half(x))");
  EXPECT_EQ(derivative_in_float("float(int(half(x)))"), "0");
}

TEST(KernelDerivative, KinksFollowMlx) {
  // mx.maximum and mx.minimum give the second argument what they do not give the first.
  EXPECT_EQ(derivative_at("max(x, y)", {1, 1}, 0), 0);
  EXPECT_EQ(derivative_at("max(x, y)", {1, 1}, 1), 1);
  EXPECT_EQ(derivative_at("min(x, y)", {1, 1}, 0), 0);
  EXPECT_EQ(derivative_at("min(x, y)", {1, 1}, 1), 1);
  EXPECT_EQ(derivative_at("abs(x)", {0}), 0);
}

TEST(KernelDerivative, BranchesNotTakenDoNotSpoilIt) {
  EXPECT_EQ(derivative_at("x > 0 ? log(x) : 0", {-1}), 0);
  EXPECT_EQ(derivative_at("where(x > 0, sqrt(x), 2 * x)", {0}), 2);
}

TEST(KernelDerivative, IsFiniteWhereTheFormulaIs) {
  for (const char* source : {"x * tanh(log(1 + exp(x)))", "x / (1 + exp(-x))", "log(1 + exp(x))",
                             "1 / (1 + exp(-x))", "exp(x) / (1 + exp(x))"}) {
    for (double x : {-1000.0, -100.0, 0.0, 100.0, 1000.0}) {
      EXPECT_TRUE(std::isfinite(derivative_at(source, {x}))) << source << " at " << x;
    }
  }
}

/// The central difference, if two steps agree on it and all parts are finite; else NaN.
double difference(const Tree& tree, NodeId root, std::vector<double> at, int variable) {
  Seen seen;
  evaluate(tree, root, at, &seen);
  if (seen.infinity || seen.nan) return NAN;
  const auto central = [&](double step) {
    auto up = at, down = at;
    up[variable] += step;
    down[variable] -= step;
    return (evaluate(tree, root, up) - evaluate(tree, root, down)) / (2 * step);
  };
  const double fine = central(1e-6), coarse = central(3e-6);
  const double scale = std::max({std::abs(fine), std::abs(evaluate(tree, root, at)), 1.0});
  if (!(std::abs(fine - coarse) < 1e-6 * scale) || scale > 1e6) return NAN;
  return fine;
}

TEST(KernelDerivative, RandomExpressionsAgreeWithDifferences) {
  std::mt19937_64 random(2);
  std::uniform_real_distribution<double> values(-2, 2);
  int compared = 0;
  for (int i = 0; i < 5000; ++i) {
    const auto expression = random_expression(random, 4, 2);
    Tree tree;
    Scope scope;
    for (const char* name : {"a", "b"}) scope.declare(tree, name, Type::float32);
    const NodeId root = parse(expression.text, tree, scope);
    for (int variable : {0, 1}) {
      const NodeId slope = derivative(tree, root, variable);
      const std::vector<double> at{values(random), values(random)};
      const double expected = difference(tree, root, at, variable);
      // At the very end of a domain (asin at 1) the slope is infinite and nothing is promised.
      Seen seen;
      const double found = evaluate(tree, slope, at, &seen);
      if (std::isnan(expected) || seen.infinity) continue;
      ++compared;
      ASSERT_NEAR(found, expected,
                  1e-5 * std::max({1.0, std::abs(expected), std::abs(evaluate(tree, root, at))}))
          << expression.text << "\n"
          << to_string(tree, slope, scope.variables) << "\nat " << at[0] << ", " << at[1];
    }
  }
  EXPECT_GT(compared, 4000);
}

TEST(KernelDerivative, SecondDerivativesAgreeWithDifferences) {
  std::mt19937_64 random(3);
  std::uniform_real_distribution<double> values(-2, 2);
  int compared = 0;
  for (int i = 0; i < 1000; ++i) {
    const auto expression = random_expression(random, 3, 1);
    Tree tree;
    Scope scope;
    scope.declare(tree, "a", Type::float32);
    const NodeId slope = derivative(tree, parse(expression.text, tree, scope), 0);
    const NodeId curvature = derivative(tree, slope, 0);
    const std::vector<double> at{values(random)};
    const double expected = difference(tree, slope, at, 0);
    Seen seen;
    const double found = evaluate(tree, curvature, at, &seen);
    if (std::isnan(expected) || seen.infinity) continue;
    ++compared;
    ASSERT_NEAR(found, expected,
                1e-5 * std::max({1.0, std::abs(expected), std::abs(evaluate(tree, slope, at))}))
        << expression.text << "\nat " << at[0];
  }
  EXPECT_GT(compared, 500);
}

}  // namespace
}  // namespace zmlx::testing
