// Prints random expressions with what they are worth, for tests in other languages.
//
//     kernel_random_corpus SEED COUNT DEPTH POINTS KIND
//
// One line for each expression of a, b and c: its text, a tab, and for each point seven numbers: a,
// b, c, the value and its error (see kernel_random.h), and both again of the derivative by a as a
// difference. NaN where nothing can be said. KIND is "float", "casts" (floats, some rounded to 16
// bits), "half" or "bfloat" (what T is); only of the first slopes are printed.

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <string>

#include "kernel_random.h"

namespace zmlx::testing {
namespace {

/// The difference of third order; its error is how much it changes with half the step.
Approximate slope(const RandomExpression& expression, std::vector<double> at) {
  const double center = at[0], step = 1e-3;
  const auto difference = [&](double h) {
    std::vector<double> sides;
    for (double x : {-h, h}) {
      at[0] = center + x;
      sides.push_back(expression.evaluate(at).value);
    }
    return (sides[1] - sides[0]) / (2 * h);
  };
  const double wide = difference(step), narrow = difference(step / 2);
  return {(4 * narrow - wide) / 3, std::abs(narrow - wide)};
}

void print(std::mt19937_64& random, int depth, int points, RandomKind kind) {
  std::uniform_real_distribution<double> values(-3, 3);
  const auto expression = random_expression(random, depth, 3, kind);
  const bool rounds = kind.casts || kernel::is_half(kind.type);
  std::printf("%s\t", expression.text.c_str());
  for (int k = 0; k < points; ++k) {
    std::vector<double> at;
    for (int i = 0; i < 3; ++i) at.push_back(static_cast<float>(values(random)));
    const auto value = expression.evaluate(at);
    const auto rate = rounds ? Approximate{NAN, 0} : slope(expression, at);
    std::printf("%.9g %.9g %.9g %.17g %.5g %.17g %.5g ", at[0], at[1], at[2], value.value,
                value.error, rate.value, rate.error);
  }
  std::printf("\n");
}

RandomKind kind_of(const std::string& name) {
  RandomKind kind;
  kind.casts = name == "casts";
  if (name == "half") kind.type = kernel::Type::float16;
  if (name == "bfloat") kind.type = kernel::Type::bfloat16;
  return kind;
}

}  // namespace
}  // namespace zmlx::testing

int main(int count, char** arguments) {
  if (count != 6) {
    std::fprintf(stderr, "usage: kernel_random_corpus SEED COUNT DEPTH POINTS KIND\n");
    return 2;
  }
  const auto kind = zmlx::testing::kind_of(arguments[5]);
  std::mt19937_64 random(std::strtoull(arguments[1], nullptr, 10));
  for (int i = 0; i < std::atoi(arguments[2]); ++i) {
    zmlx::testing::print(random, std::atoi(arguments[3]), std::atoi(arguments[4]), kind);
  }
}
