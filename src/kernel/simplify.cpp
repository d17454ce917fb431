#include "kernel/simplify.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>
#include <utility>

namespace zmlx::kernel {

namespace {

/// `u` if `id` is op(u).
std::optional<NodeId> argument_of(const Tree& tree, NodeId id, Op op) {
  if (tree[id].op != op) return std::nullopt;
  return tree[id].args[0];
}

/// `u` if `id` is 1 + u of floats.
std::optional<NodeId> one_plus(const Tree& tree, NodeId id) {
  const Node& node = tree[id];
  if (node.op != Op::add || !is_float(node.type)) return std::nullopt;
  if (tree.is_constant(node.args[1], 1)) return node.args[0];
  return std::nullopt;
}

/// `u` if `id` is 1 + exp(u).
std::optional<NodeId> one_plus_exp(const Tree& tree, NodeId id) {
  const auto u = one_plus(tree, id);
  return u ? argument_of(tree, *u, Op::exp) : std::nullopt;
}

bool is_power_of_two(double value) {
  int exponent;
  return std::isfinite(value) && std::abs(std::frexp(value, &exponent)) == 0.5 &&
         std::abs(exponent) < 100;
}

std::optional<NodeId> simplify_add(Tree& tree, const Node& node) {
  const auto [a, b, unused] = node.args;
  if (const auto u = argument_of(tree, b, Op::negate)) return tree.sub(a, *u);
  if (const auto u = argument_of(tree, a, Op::negate)) return tree.sub(b, *u);
  return std::nullopt;
}

std::optional<NodeId> simplify_subtract(Tree& tree, const Node& node) {
  const auto [a, b, unused] = node.args;
  if (tree.is_constant(b, 0) && !std::signbit(tree[b].value)) return a;
  if (const auto u = argument_of(tree, b, Op::negate)) return tree.add(a, *u);
  if (!is_float(node.type)) return std::nullopt;
  if (const auto u = argument_of(tree, a, Op::exp); u && tree.is_constant(b, 1)) {
    return tree.make(Op::expm1, *u);
  }
  if (const auto u = argument_of(tree, b, Op::exp); u && tree.is_constant(a, 1)) {
    return tree.make(Op::negate, tree.make(Op::expm1, *u));
  }
  if (const auto u = argument_of(tree, b, Op::erf); u && tree.is_constant(a, 1)) {
    return tree.make(Op::erfc, *u);
  }
  return std::nullopt;
}

std::optional<NodeId> simplify_multiply(Tree& tree, const Node& node) {
  const auto [a, b, unused] = node.args;
  if (tree.is_constant(b, 1)) return a;
  if (tree.is_constant(b, -1)) return tree.make(Op::negate, a);
  const auto minus_a = argument_of(tree, a, Op::negate);
  const auto minus_b = argument_of(tree, b, Op::negate);
  if (minus_a && minus_b) return tree.mul(*minus_a, *minus_b);
  if (minus_a && tree.is_constant(b)) {
    return tree.mul(*minus_a, tree.constant(-tree[b].value, node.type));
  }
  return std::nullopt;
}

std::optional<NodeId> simplify_divide(Tree& tree, const Node& node) {
  const auto [a, b, unused] = node.args;
  if (tree.is_constant(b, 1)) return a;
  if (!is_float(node.type)) return std::nullopt;
  if (const auto u = one_plus_exp(tree, b)) {
    if (argument_of(tree, a, Op::exp) == u) return tree.make(Op::sigmoid, *u);
    const NodeId sigmoid = tree.make(Op::sigmoid, tree.make(Op::negate, *u));
    return tree.is_constant(a, 1) ? sigmoid : tree.mul(a, sigmoid);
  }
  if (is_half(node.type)) return std::nullopt;  // what follows rounds less often
  if (const auto u = argument_of(tree, b, Op::sqrt); u && tree.is_constant(a, 1)) {
    return tree.make(Op::rsqrt, *u);
  }
  if (tree.is_constant(b) && is_power_of_two(tree[b].value)) {
    return tree.mul(a, tree.constant(1 / tree[b].value));
  }
  return std::nullopt;
}

std::optional<NodeId> simplify_power(Tree& tree, const Node& node) {
  const auto [a, b, unused] = node.args;
  if (!tree.is_constant(b) || is_half(node.type)) return std::nullopt;
  const double exponent = tree[b].value;
  if (exponent == 0) return tree.constant(1);
  if (exponent == 1) return a;
  if (exponent == -1) return tree.div(tree.constant(1), a);
  if (exponent == 2) return tree.mul(a, a);
  if (exponent == 3) return tree.mul(tree.mul(a, a), a);
  if (exponent == 4) return tree.mul(tree.mul(a, a), tree.mul(a, a));
  return std::nullopt;
}

std::optional<NodeId> simplify_select(Tree& tree, const Node& node) {
  const auto [condition, yes, no] = node.args;
  if (yes == no) return yes;
  if (tree.is_constant(condition)) return tree[condition].value != 0 ? yes : no;
  if (const auto u = argument_of(tree, condition, Op::logical_not)) {
    return tree.make(Op::select, *u, no, yes);
  }
  return std::nullopt;
}

std::optional<NodeId> simplify_logic(Tree& tree, const Node& node) {
  const auto [a, b, unused] = node.args;
  const bool stops = node.op == Op::logical_or;
  for (const auto& [x, y] : {std::pair{a, b}, std::pair{b, a}}) {
    if (!tree.is_constant(x)) continue;
    return (tree[x].value != 0) == stops ? x : y;
  }
  return a == b ? std::optional(a) : std::nullopt;
}

std::optional<NodeId> simplify_unary(Tree& tree, const Node& node) {
  const NodeId a = node.args[0];
  switch (node.op) {
    case Op::negate:
    case Op::logical_not:
    case Op::bit_not:
      return argument_of(tree, a, node.op);
    case Op::absolute:
      if (tree.type(a) == Type::uint32 || tree[a].op == Op::absolute) return a;
      if (const auto u = argument_of(tree, a, Op::negate)) return tree.make(Op::absolute, *u);
      return std::nullopt;
    case Op::cast: {
      if (node.type == tree.type(a)) return a;
      // There and back: float32 has all 16-bit numbers.
      const auto u = argument_of(tree, a, Op::cast);
      const bool back = u && tree.type(a) == Type::float32 && tree.type(*u) == node.type;
      return back && is_half(node.type) ? u : std::nullopt;
    }
    case Op::to_float16:
    case Op::to_bfloat16:
      return tree[a].op == node.op ? std::optional(a) : std::nullopt;
    case Op::log:
      if (const auto u = one_plus(tree, a)) return tree.make(Op::log1p, *u);
      if (const auto u = argument_of(tree, a, Op::sigmoid)) {
        return tree.make(Op::negate, tree.make(Op::softplus, tree.make(Op::negate, *u)));
      }
      return std::nullopt;
    case Op::log1p:
      if (const auto u = argument_of(tree, a, Op::exp)) return tree.make(Op::softplus, *u);
      return std::nullopt;
    default:
      return std::nullopt;
  }
}

std::optional<NodeId> rewrite(Tree& tree, const Node& node) {
  switch (node.op) {
    case Op::add:
      return simplify_add(tree, node);
    case Op::subtract:
      return simplify_subtract(tree, node);
    case Op::multiply:
      return simplify_multiply(tree, node);
    case Op::divide:
      return simplify_divide(tree, node);
    case Op::power:
      return simplify_power(tree, node);
    case Op::select:
      return simplify_select(tree, node);
    case Op::logical_and:
    case Op::logical_or:
      return simplify_logic(tree, node);
    default:
      return simplify_unary(tree, node);
  }
}

bool commutes(Op op) {
  switch (op) {
    case Op::add:
    case Op::multiply:
    case Op::bit_and:
    case Op::bit_or:
    case Op::bit_xor:
    case Op::equal:
    case Op::not_equal:
    case Op::logical_and:
    case Op::logical_or:
      return true;
    default:
      return false;
  }
}

/// Constants second, else by id, so that a * b and b * a are one.
void order_arguments(const Tree& tree, Node& node) {
  if (!commutes(node.op)) return;
  auto& [a, b, unused] = node.args;
  const bool swap = tree.is_constant(a) != tree.is_constant(b) ? tree.is_constant(a) : a > b;
  if (swap) std::swap(a, b);
}

double fold_integers(Op op, int64_t a, int64_t b, bool is_signed) {
  const auto count = static_cast<unsigned>(b) & 31;
  switch (op) {
    case Op::add:
      return static_cast<double>(a + b);
    case Op::subtract:
      return static_cast<double>(a - b);
    case Op::multiply:  // wraps in 64 bits without overflow
      return static_cast<double>(
          static_cast<uint32_t>(static_cast<uint64_t>(a) * static_cast<uint64_t>(b)));
    case Op::divide:
      return b == 0 ? 0 : static_cast<double>(a / b);
    case Op::remainder:
      return b == 0 ? 0 : static_cast<double>(a % b);
    case Op::negate:
      return static_cast<double>(-a);
    case Op::minimum:
      return static_cast<double>(std::min(a, b));
    case Op::maximum:
      return static_cast<double>(std::max(a, b));
    case Op::absolute:
      return static_cast<double>(a < 0 ? -a : a);
    case Op::bit_and:
      return static_cast<double>(a & b);
    case Op::bit_or:
      return static_cast<double>(a | b);
    case Op::bit_xor:
      return static_cast<double>(a ^ b);
    case Op::bit_not:
      return static_cast<double>(~a);
    case Op::shift_left:
      return static_cast<double>(static_cast<uint32_t>(a) << count);
    case Op::shift_right:
      return is_signed ? static_cast<double>(static_cast<int32_t>(a) >> count)
                       : static_cast<double>(static_cast<uint32_t>(a) >> count);
    default:
      return 0;
  }
}

double fold_cast(double value, Type from, Type to) {
  if (!is_float(from) || is_float(to) || to == Type::boolean) return as_type(value, to);
  if (std::isnan(value)) return 0;
  const double low = to == Type::int32 ? -2147483648.0 : 0.0;
  const double high = to == Type::int32 ? 2147483647.0 : 4294967295.0;
  return std::trunc(std::min(std::max(value, low), high));
}

std::optional<double> fold_comparison(Op op, double a, double b) {
  switch (op) {
    case Op::equal:
      return a == b;
    case Op::not_equal:
      return a != b;
    case Op::less:
      return a < b;
    case Op::less_equal:
      return a <= b;
    case Op::logical_and:
      return a != 0 && b != 0;
    case Op::logical_or:
      return a != 0 || b != 0;
    case Op::logical_not:
      return a == 0;
    case Op::is_nan:
      return std::isnan(a);
    case Op::is_inf:
      return std::isinf(a);
    case Op::is_finite:
      return std::isfinite(a);
    default:
      return std::nullopt;
  }
}

double fold_float(Op op, double a, double b, double c) {
  switch (op) {
    case Op::add:
      return a + b;
    case Op::subtract:
      return a - b;
    case Op::multiply:
      return a * b;
    case Op::divide:
      return a / b;
    case Op::remainder:
      return std::fmod(a, b);
    case Op::negate:
      return -a;
    case Op::minimum:
      return std::fmin(a, b);
    case Op::maximum:
      return std::fmax(a, b);
    case Op::absolute:
      return std::abs(a);
    case Op::fused_multiply_add:
      return std::fma(a, b, c);
    case Op::power:
      return std::pow(a, b);
    case Op::atan2:
      return std::atan2(a, b);
    case Op::copy_sign:
      return std::copysign(a, b);
    case Op::load_exponent:
      return std::ldexp(a, static_cast<int>(std::clamp(b, -1000.0, 1000.0)));
    case Op::next_after:
      return std::nextafter(static_cast<float>(a), static_cast<float>(b));
    case Op::exp:
      return std::exp(a);
    case Op::exp2:
      return std::exp2(a);
    case Op::expm1:
      return std::expm1(a);
    case Op::log:
      return std::log(a);
    case Op::log2:
      return std::log2(a);
    case Op::log10:
      return std::log10(a);
    case Op::log1p:
      return std::log1p(a);
    case Op::sqrt:
      return std::sqrt(a);
    case Op::rsqrt:
      return 1 / std::sqrt(a);
    case Op::cbrt:
      return std::cbrt(a);
    case Op::sin:
      return std::sin(a);
    case Op::cos:
      return std::cos(a);
    case Op::tan:
      return std::tan(a);
    case Op::asin:
      return std::asin(a);
    case Op::acos:
      return std::acos(a);
    case Op::atan:
      return std::atan(a);
    case Op::sinh:
      return std::sinh(a);
    case Op::cosh:
      return std::cosh(a);
    case Op::tanh:
      return std::tanh(a);
    case Op::asinh:
      return std::asinh(a);
    case Op::acosh:
      return std::acosh(a);
    case Op::atanh:
      return std::atanh(a);
    case Op::erf:
      return std::erf(a);
    case Op::erfc:
      return std::erfc(a);
    case Op::sigmoid:
      return 1 / (1 + std::exp(-a));
    case Op::softplus:
      return std::fmax(a, 0.0) + std::log1p(std::exp(-std::abs(a)));
    case Op::floor:
      return std::floor(a);
    case Op::ceil:
      return std::ceil(a);
    case Op::trunc:
      return std::trunc(a);
    case Op::round:
      return std::round(a);
    case Op::rint:
      return std::nearbyint(a);
    case Op::sign:
      return a > 0 ? 1 : a < 0 ? -1 : a;
    case Op::exponent:
      return std::isnan(a) ? -std::numeric_limits<double>::infinity() : std::logb(a);
    case Op::to_float16:
      return as_type(a, Type::float16);
    case Op::to_bfloat16:
      return as_type(a, Type::bfloat16);
    default:
      return 0;
  }
}

}  // namespace

double fold(const Node& node, const std::array<double, 3>& args, Type argument_type) {
  if (node.op == Op::select) return args[0] != 0 ? args[1] : args[2];
  if (node.op == Op::cast) return fold_cast(args[0], argument_type, node.type);
  if (const auto truth = fold_comparison(node.op, args[0], args[1])) return *truth;
  if (is_float(node.type)) {
    return as_type(fold_float(node.op, args[0], args[1], args[2]), node.type);
  }
  const bool is_signed = node.type != Type::uint32;
  return as_type(fold_integers(node.op, static_cast<int64_t>(args[0]),
                               static_cast<int64_t>(args[1]), is_signed),
                 node.type);
}

NodeId simplify(Tree& tree, const Node& original) {
  Node node = original;
  if (arity(node.op) == 0) return tree.intern(node);
  order_arguments(tree, node);
  bool all_constant = true;
  std::array<double, 3> values{};
  for (int i = 0; i < arity(node.op); ++i) {
    all_constant = all_constant && tree.is_constant(node.args[i]);
    values[i] = tree[node.args[i]].value;
  }
  if (all_constant) {
    const Type argument = tree.type(node.args[node.op == Op::select ? 1 : 0]);
    return tree.constant(fold(node, values, argument), node.type);
  }
  if (const auto simpler = rewrite(tree, node)) return *simpler;
  return tree.intern(node);
}

}  // namespace zmlx::kernel
