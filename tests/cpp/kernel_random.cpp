#include "kernel_random.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace zmlx::testing {

namespace {

using kernel::is_half;
using kernel::Op;
using kernel::Type;
using Evaluate = std::function<Approximate(const std::vector<double>&)>;

constexpr double kEps = 0x1p-23;
constexpr double kTiny = 1e-37;  // below float32's normal numbers nothing is promised
const Approximate kUnknown{std::numeric_limits<double>::quiet_NaN(), 0};

double sigmoid(double x) { return 1 / (1 + std::exp(-x)); }
double softplus(double x) { return std::max(x, 0.0) + std::log1p(std::exp(-std::abs(x))); }
double rsqrt(double x) { return 1 / std::sqrt(x); }
double sign(double x) { return x > 0 ? 1 : x < 0 ? -1 : x; }
double silu(double x) { return x * sigmoid(x); }
double square(double x) { return x * x; }
Approximate checked(double value, double error) {
  const bool lost = !(error <= 1e-3 * std::max(std::abs(value), 1.0));
  const bool underflows = value != 0 && std::abs(value) < 1e3 * kTiny;
  if (!std::isfinite(value) || std::abs(value) > 1e30 || underflows || lost) return kUnknown;
  return {value, error};
}

/// f(a, b) with the errors of a and b carried through it.
template <typename F>
Approximate through(const F& f, Approximate a, Approximate b, double ulps) {
  if (std::isnan(a.value) || std::isnan(b.value)) return kUnknown;
  const double value = f(a.value, b.value);
  double error = ulps * kEps * std::abs(value) + kTiny;
  const auto moved = [&](double x, double y) {
    const double other = f(x, y);
    error += 1.5 * (std::isnan(other) ? std::numeric_limits<double>::infinity()
                                      : std::abs(other - value));
  };
  if (a.error > 0) moved(a.value - a.error, b.value), moved(a.value + a.error, b.value);
  if (b.error > 0) moved(a.value, b.value - b.error), moved(a.value, b.value + b.error);
  return checked(value, error);
}

template <typename F>
Approximate through(const F& f, Approximate a, double ulps) {
  return through([&](double x, double) { return f(x); }, a, {0, 0}, ulps);
}

/// The number of a 16-bit type that a value is rounded to; unknown if it is too close to the middle
/// of two.
Approximate rounded(Approximate a, Type type) {
  const double value = kernel::as_type(a.value, type);
  const bool sure = kernel::as_type(a.value - 2 * a.error, type) == value &&
                    kernel::as_type(a.value + 2 * a.error, type) == value;
  return sure ? checked(value, 0) : kUnknown;
}

struct BinaryFunction {
  const char* name;
  double (*value)(double, double);
  double ulps;
};
const BinaryFunction kBinary[] = {
    {"pow", [](double a, double b) { return std::pow(a, b); }, 2},
    // At (0, 0) it has no derivative.
    {"atan2", [](double a, double b) { return a == 0 && b == 0 ? NAN : std::atan2(a, b); }, 6},
    {"max", [](double a, double b) { return std::fmax(a, b); }, 0},
    {"min", [](double a, double b) { return std::fmin(a, b); }, 0},
    {"fmod", [](double a, double b) { return std::fmod(a, b); }, 1},
    {"fdim", [](double a, double b) { return std::fdim(a, b); }, 0.5},
    {"copysign", [](double a, double b) { return std::copysign(a, b); }, 0},
};
const BinaryFunction kInfix[] = {
    {"+", [](double a, double b) { return a + b; }, 0.5},
    {"-", [](double a, double b) { return a - b; }, 0.5},
    {"*", [](double a, double b) { return a * b; }, 0.5},
    {"/", [](double a, double b) { return a / b; }, 1},
};
/// Of integers of 32 bits.
struct IntegerFunction {
  const char* name;
  int64_t (*value)(int64_t, int64_t);
};
int64_t wrapped(int64_t value) { return static_cast<int32_t>(static_cast<uint32_t>(value)); }
const IntegerFunction kIntegers[] = {
    {"+", [](int64_t a, int64_t b) { return wrapped(a + b); }},
    {"*", [](int64_t a, int64_t b) { return wrapped(a * b); }},
    {"/", [](int64_t a, int64_t b) { return b == 0 ? 0 : wrapped(a / b); }},
    {"%", [](int64_t a, int64_t b) { return b == 0 ? 0 : a % b; }},
    {"&", [](int64_t a, int64_t b) { return a & b; }},
    {"|", [](int64_t a, int64_t b) { return a | b; }},
    {"^", [](int64_t a, int64_t b) { return a ^ b; }},
    {"<<", [](int64_t a, int64_t b) { return wrapped(a << (b & 31)); }},
    {">>", [](int64_t a, int64_t b) { return a >> (b & 31); }},
};

class Generator {
 public:
  Generator(std::mt19937_64& random, int variables, RandomKind kind)
      : random_(random), variables_(variables), type_(kind.type), casts_(kind.casts) {}

  RandomExpression real(int depth) {
    if (depth <= 0) return leaf();
    if (casts_ && pick(12) == 0) return cast(depth);
    switch (pick(12)) {
      case 0:
      case 1:
      case 2:
      case 3:
        return binary(depth, kInfix[pick(std::size(kInfix))], true);
      case 4:
        return binary(depth, kBinary[pick(std::size(kBinary))], false);
      case 5:
        return negation(depth);
      case 6:
        return choice(depth);
      case 7:
        return pick(3) == 0 ? integers(depth) : leaf();
      case 8:
        return repeated(depth);
      default:
        return unary(depth);
    }
  }

 private:
  size_t pick(size_t count) { return random_() % count; }

  /// An operation's result, as its type has it.
  Approximate result(Approximate exact) const {
    return is_half(type_) ? rounded(exact, type_) : exact;
  }

  RandomExpression cast(int depth) {
    auto a = real(depth - 1);
    const bool half = pick(2) == 0;
    const Type type = half ? Type::float16 : Type::bfloat16;
    static constexpr const char* kForms[] = {"float(%s(", "float((%s)(",
                                             "(1.0f * static_cast<%s>("};
    char before[40];
    std::snprintf(before, sizeof(before), kForms[pick(3)], half ? "half" : "bfloat");
    return {before + a.text + "))",
            [type, a = a.evaluate](const std::vector<double>& in) { return rounded(a(in), type); }};
  }

  RandomExpression leaf() {
    if (pick(4) != 0) {
      const size_t n = pick(variables_);
      return {std::string(1, static_cast<char>('a' + n)),
              [n, type = type_](const std::vector<double>& in) {
                return Approximate{is_half(type) ? kernel::as_type(in[n], type) : in[n], 0};
              }};
    }
    static constexpr double kNumbers[] = {0.5, 1, 2, -1.5, 0.25, 3, 1.0 / 3, -0.125};
    double number = kNumbers[pick(std::size(kNumbers))];
    // With 1 + exp(x) and the like go formulas that are computed at once, without rounding between.
    if (is_half(type_) && number == 1) number = 1.25;
    char text[40];
    std::snprintf(text, sizeof(text), pick(2) && !is_half(type_) ? "%.9gf" : "T(%.9g)", number);
    std::string written = text;
    if (written.back() == 'f' && written.find('.') == std::string::npos) {
      written.insert(written.size() - 1, ".0");
    }
    const double value = kernel::as_type(number, type_);
    return {number < 0 ? "(" + written + ")" : written,
            [rounded = value](const std::vector<double>&) { return Approximate{rounded, 0}; }};
  }

  RandomExpression unary(int depth) {
    const auto& functions = unary_functions();
    auto f = functions[pick(functions.size())];
    auto a = real(depth - 1);
    // Of 16-bit types, what is computed at once or in two steps is not at random.
    while (is_half(type_) && (std::string(f.name).starts_with("log") || f.value == silu)) {
      f = functions[pick(functions.size())];
    }
    static constexpr const char* kPrefixes[] = {"", "metal::", "metal::precise::", "kk_"};
    return {kPrefixes[pick(4)] + std::string(f.name) + "(" + a.text + ")",
            [f, a = a.evaluate, g = *this](const std::vector<double>& in) {
              return g.result(through(f.value, a(in), f.ulps));
            }};
  }

  RandomExpression binary(int depth, const BinaryFunction& f, bool infix) {
    auto a = real(depth - 1);
    auto b = real(depth - 1 - static_cast<int>(pick(2)));
    const auto text = infix ? "(" + a.text + " " + f.name + " " + b.text + ")"
                            : std::string(f.name) + "(" + a.text + ", " + b.text + ")";
    // Fusing a product into a sum rounds once less.
    return {text, [f, a = a.evaluate, b = b.evaluate, g = *this](const std::vector<double>& in) {
              return g.result(through(f.value, a(in), b(in), f.ulps));
            }};
  }

  RandomExpression negation(int depth) {
    auto a = real(depth - 1);
    return {"-(" + a.text + ")", [a = a.evaluate](const std::vector<double>& in) {
              const auto x = a(in);
              return Approximate{-x.value, x.error};
            }};
  }

  RandomExpression choice(int depth) {
    auto left = real(depth - 2), right = real(depth - 2);
    auto yes = real(depth - 1), no = real(depth - 1);
    const size_t sign = pick(4);
    static constexpr const char* kSigns[] = {"<", ">=", ">", "<="};
    const std::string condition = left.text + " " + kSigns[sign] + " " + right.text;
    const size_t form = pick(3);
    const std::string text = form == 0 ? "(" + condition + " ? " + yes.text + " : " + no.text + ")"
                             : form == 1
                                 ? "select(" + no.text + ", " + yes.text + ", " + condition + ")"
                                 : "where(!(" + condition + "), " + no.text + ", " + yes.text + ")";
    return {text, [=, l = left.evaluate, r = right.evaluate, y = yes.evaluate,
                   n = no.evaluate](const std::vector<double>& in) {
              const auto a = l(in), b = r(in);
              const double gap = a.value - b.value;
              // The same expression on both sides is equal in any arithmetic.
              const bool same = left.text == right.text;
              if (!same && !(std::abs(gap) > 2 * (a.error + b.error))) return kUnknown;
              const bool holds = sign == 0   ? gap < 0
                                 : sign == 1 ? gap >= 0
                                 : sign == 2 ? gap > 0
                                             : gap <= 0;
              return holds ? y(in) : n(in);
            }};
  }

  RandomExpression integers(int depth) {
    auto a = real(depth - 2), b = real(depth - 2);
    const auto f = kIntegers[pick(std::size(kIntegers))];
    return {"T(int(" + a.text + ") " + f.name + " int(" + b.text + "))",
            [f, a = a.evaluate, b = b.evaluate, g = *this](const std::vector<double>& in) {
              const auto x = a(in), y = b(in);
              for (const auto& v : {x, y}) {
                const bool sure =
                    std::trunc(v.value - 2 * v.error) == std::trunc(v.value + 2 * v.error);
                if (!sure || !(std::abs(v.value) < 1e6)) return kUnknown;
              }
              const auto value = static_cast<double>(
                  f.value(static_cast<int64_t>(x.value), static_cast<int64_t>(y.value)));
              return g.result(checked(value, std::abs(value) * kEps / 2));
            }};
  }

  /// One subexpression written twice, which is computed once; silu's pieces.
  RandomExpression repeated(int depth) {
    auto a = real(depth - 1);
    return {"(" + a.text + " / (1 + exp(-(" + a.text + "))))",
            [a = a.evaluate, g = *this](const std::vector<double>& in) {
              if (!is_half(g.type_)) return through(silu, a(in), 5);
              const auto x = a(in);
              const auto times = [](double p, double q) { return p * q; };
              const auto factor = g.result(through(sigmoid, x, 4));
              const auto stable = g.result(through(times, x, factor, 0.5));
              // Constants are computed as it is written; only where that is the same, all is known.
              const auto power = g.result(through([](double p) { return std::exp(-p); }, x, 2));
              const auto below = g.result(through([](double p) { return 1 + p; }, power, 0.5));
              const auto over = [](double p, double q) { return p / q; };
              const auto written = g.result(through(over, x, below, 1));
              return stable.value == written.value ? stable : kUnknown;
            }};
  }

  std::mt19937_64& random_;
  size_t variables_;
  Type type_;
  bool casts_;
};

}  // namespace

const std::vector<UnaryFunction>& unary_functions() {
  static const std::vector<UnaryFunction> functions = {
      {"abs", std::abs, 0, -1e30, 1e30},     {"exp", std::exp, 2, -103, 88.7},
      {"exp2", std::exp2, 2, -149, 127.9},   {"expm1", std::expm1, 4, -20, 88},
      {"log", std::log, 2, 1e-38, 1e38},     {"log2", std::log2, 3, 1e-38, 1e38},
      {"log10", std::log10, 3, 1e-38, 1e38}, {"log1p", std::log1p, 3, -0.999, 1e38},
      {"sqrt", std::sqrt, 0.5, 0, 1e38},     {"rsqrt", rsqrt, 2, 1e-38, 1e38},
      {"sin", std::sin, 3, -1e5, 1e5},       {"cos", std::cos, 3, -1e5, 1e5},
      {"tan", std::tan, 6, -1e5, 1e5},       {"asin", std::asin, 4, -1, 1},
      {"acos", std::acos, 4, -1, 1},         {"atan", std::atan, 4, -1e10, 1e10},
      {"sinh", std::sinh, 5, -89, 89},       {"cosh", std::cosh, 4, -89, 89},
      {"tanh", std::tanh, 5, -20, 20},       {"asinh", std::asinh, 4, -1e18, 1e18},
      {"acosh", std::acosh, 4, 1, 1e18},     {"atanh", std::atanh, 4, -0.9999, 0.9999},
      {"cbrt", std::cbrt, 2, -1e38, 1e38},   {"erfc", std::erfc, 5, -5, 10},
      {"erf", std::erf, 4, -5, 5},           {"sigmoid", sigmoid, 4, -87, 87},
      {"softplus", softplus, 4, -87, 1e10},  {"floor", std::floor, 0, -1e9, 1e9},
      {"ceil", std::ceil, 0, -1e9, 1e9},     {"trunc", std::trunc, 0, -1e9, 1e9},
      {"round", std::round, 0, -1e9, 1e9},   {"rint", std::nearbyint, 0, -1e9, 1e9},
      {"sign", sign, 0, -1e30, 1e30},        {"silu", silu, 5, -80, 1e10},
      {"square", square, 0.5, -1e15, 1e15},
  };
  return functions;
}

RandomExpression random_expression(std::mt19937_64& random, int depth, int variables,
                                   RandomKind kind) {
  return Generator(random, variables, kind).real(depth);
}

namespace {

double evaluate_unary(const kernel::Node& node, double a) {
  switch (node.op) {
    case Op::negate:
      return node.type == Type::float32 ? -a
                                        : static_cast<double>(wrapped(-static_cast<int64_t>(a)));
    case Op::logical_not:
      return a == 0;
    case Op::is_nan:
      return std::isnan(a);
    case Op::cast:
      if (node.type == Type::boolean) return a != 0;
      if (node.type == Type::float32) return a;
      return std::isnan(a) ? 0 : std::trunc(std::clamp(a, -2147483648.0, 2147483647.0));
    default:
      break;
  }
  for (const auto& f : unary_functions()) {
    if (std::string(f.name) == kernel::op_name(node.op)) return f.value(a);
  }
  return std::numeric_limits<double>::quiet_NaN();
}

double evaluate_binary(const kernel::Node& node, double a, double b) {
  const std::string name = kernel::op_name(node.op);
  if (node.type == Type::int32) {
    for (const auto& f : kIntegers) {
      if (name == f.name) {
        return static_cast<double>(f.value(static_cast<int64_t>(a), static_cast<int64_t>(b)));
      }
    }
  }
  switch (node.op) {
    case Op::less:
      return a < b;
    case Op::less_equal:
      return a <= b;
    case Op::equal:
      return a == b;
    case Op::remainder:
      return std::fmod(a, b);
    default:
      break;
  }
  for (const auto& f : kInfix) {
    if (name == f.name) return f.value(a, b);
  }
  for (const auto& f : kBinary) {
    if (name == f.name) return f.value(a, b);
  }
  return std::numeric_limits<double>::quiet_NaN();
}

}  // namespace

double evaluate(const kernel::Tree& tree, kernel::NodeId root, const std::vector<double>& inputs,
                Seen* seen) {
  const auto needed = kernel::reachable(tree, {root});
  std::vector<double> values(tree.size());
  for (size_t id = 0; id <= static_cast<size_t>(root); ++id) {
    if (!needed[id]) continue;
    const auto& node = tree[static_cast<kernel::NodeId>(id)];
    const auto arg = [&](int i) { return values[node.args[i]]; };
    if (node.op == Op::constant) {
      values[id] = node.value;
    } else if (node.op == Op::variable) {
      values[id] = inputs[static_cast<size_t>(node.value)];
    } else if (node.op == Op::select) {
      values[id] = arg(0) != 0 ? arg(1) : arg(2);
    } else if (kernel::arity(node.op) == 1) {
      values[id] = evaluate_unary(node, arg(0));
    } else {
      values[id] = evaluate_binary(node, arg(0), arg(1));
    }
    if (seen) {
      seen->infinity |= std::isinf(values[id]);
      seen->nan |= std::isnan(values[id]);
    }
  }
  return values[root];
}

}  // namespace zmlx::testing
