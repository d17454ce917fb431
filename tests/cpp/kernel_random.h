#pragma once

#include <cstdint>
#include <functional>
#include <random>
#include <string>
#include <vector>

#include "kernel/expression.h"

/// Random expressions and what they are worth, without the code under test: each comes as source
/// text and as a function that computes it in float64, with a bound on the error that float32
/// arithmetic of the stated accuracy may make.
namespace zmlx::testing {

/// A number computed in float64 and how far a float32 computation may be from it. NaN where nothing
/// can be said: out of a function's domain, near a jump, or where errors have grown too large.
struct Approximate {
  double value;
  double error;
};

struct RandomExpression {
  std::string text;
  std::function<Approximate(const std::vector<double>&)> evaluate;
};

/// What random expressions are made of.
struct RandomKind {
  /// What `T` means. Of a 16-bit type all is in it, and each operation's result is rounded to it.
  kernel::Type type = kernel::Type::float32;
  /// Whether floats are sometimes rounded to 16 bits. The slope of what is rounded says nothing.
  bool casts = false;
};

/// Variables are named a, b, c...; the expression is of T.
/// @param depth  of operations within each other.
RandomExpression random_expression(std::mt19937_64& random, int depth, int variables,
                                   RandomKind kind = {});

/// A function of one argument: its name, its value, and its error in the evaluator in units of the
/// last place, which docs/kernels.md states too.
struct UnaryFunction {
  const char* name;
  double (*value)(double);
  double ulps;
  double low, high;  ///< where its accuracy is tested
};
const std::vector<UnaryFunction>& unary_functions();

/// What parts of an expression were.
struct Seen {
  bool infinity = false, nan = false;
};

/// The expression in float64, node by node, with no rounding to float32.
double evaluate(const kernel::Tree& tree, kernel::NodeId root, const std::vector<double>& inputs,
                Seen* seen = nullptr);

}  // namespace zmlx::testing
