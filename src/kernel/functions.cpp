#include "kernel/functions.h"

#include <cfloat>
#include <limits>
#include <numbers>

namespace zmlx::kernel {

namespace {

using Takes = Function::Takes;

template <Op kOp>
NodeId unary(Tree& t, const NodeId* a) {
  return t.make(kOp, a[0]);
}
template <Op kOp>
NodeId binary(Tree& t, const NodeId* a) {
  return t.make(kOp, a[0], a[1]);
}

/// A number of the type that `a` has.
NodeId number(Tree& t, NodeId a, double value) { return t.constant(value, t.type(a)); }

/// x * sigmoid(x).
NodeId silu(Tree& t, const NodeId* a) { return t.mul(a[0], t.make(Op::sigmoid, a[0])); }

/// The tanh approximation of GELU, in the order of operations of PyPI zmlx's kk_gelu_tanh.
/// Hendrycks and Gimpel 2016, https://arxiv.org/abs/1606.08415
NodeId gelu_tanh(Tree& t, const NodeId* a) {
  const NodeId x = a[0];
  const NodeId cubed = t.mul(t.mul(x, x), x);
  const NodeId inner = t.mul(t.add(x, t.mul(cubed, number(t, x, 0.044715))),
                             number(t, x, 0.7978845608028654));  // sqrt(2 / pi)
  return t.mul(t.mul(number(t, x, 0.5), x), t.add(number(t, x, 1), t.make(Op::tanh, inner)));
}

/// x * (1 + erf(x / sqrt(2))) / 2, ibid.
NodeId gelu(Tree& t, const NodeId* a) {
  const NodeId x = a[0], scaled = t.mul(x, number(t, x, 1 / std::numbers::sqrt2));
  return t.mul(t.mul(number(t, x, 0.5), x), t.add(number(t, x, 1), t.make(Op::erf, scaled)));
}

NodeId relu(Tree& t, const NodeId* a) { return t.make(Op::maximum, a[0], number(t, a[0], 0)); }
NodeId square(Tree& t, const NodeId* a) { return t.mul(a[0], a[0]); }
NodeId reciprocal(Tree& t, const NodeId* a) { return t.div(number(t, a[0], 1), a[0]); }
NodeId exp10(Tree& t, const NodeId* a) { return t.make(Op::power, number(t, a[0], 10), a[0]); }
NodeId fract(Tree& t, const NodeId* a) { return t.sub(a[0], t.make(Op::floor, a[0])); }
NodeId saturate(Tree& t, const NodeId* a) {
  return t.make(Op::minimum, t.make(Op::maximum, a[0], number(t, a[0], 0)), number(t, a[0], 1));
}
NodeId signbit(Tree& t, const NodeId* a) {
  return t.make(Op::less, t.make(Op::copy_sign, number(t, a[0], 1), a[0]), number(t, a[0], 0));
}
NodeId step(Tree& t, const NodeId* a) {
  return t.make(Op::select, t.make(Op::less, a[1], a[0]), number(t, a[0], 0), number(t, a[0], 1));
}
NodeId mix(Tree& t, const NodeId* a) { return t.add(a[0], t.mul(t.sub(a[1], a[0]), a[2])); }
NodeId clamp(Tree& t, const NodeId* a) {
  return t.make(Op::minimum, t.make(Op::maximum, a[0], a[1]), a[2]);
}
/// The positive difference; NaN if either is.
NodeId fdim(Tree& t, const NodeId* a) {
  return t.make(Op::select, t.make(Op::less_equal, a[0], a[1]), number(t, a[0], 0),
                t.sub(a[0], a[1]));
}
/// Computed in float32, which has room for every exponent, and rounded once.
NodeId ldexp(Tree& t, const NodeId* a) {
  const Type type = is_float(t.type(a[0])) ? t.type(a[0]) : Type::float32;
  const NodeId power = t.cast(t.cast(a[1], Type::int32), Type::float32);
  return t.cast(t.make(Op::load_exponent, t.cast(a[0], Type::float32), power), type);
}
NodeId ilogb(Tree& t, const NodeId* a) {
  return t.cast(t.make(Op::exponent, t.cast(a[0], Type::float32)), Type::int32);
}
NodeId nextafter(Tree& t, const NodeId* a) {
  return t.make(Op::next_after, t.cast(a[0], Type::float32), t.cast(a[1], Type::float32));
}
NodeId fma(Tree& t, const NodeId* a) { return t.make(Op::fused_multiply_add, a[0], a[1], a[2]); }

NodeId where(Tree& t, const NodeId* a) {
  if (t.type(a[0]) != Type::boolean) return -1;
  if (t.type(a[1]) == Type::boolean && t.type(a[2]) == Type::boolean) {
    return t.make(Op::select, a[0], a[1], a[2]);
  }
  const Type type = common_type(t.type(a[1]), t.type(a[2]));
  return t.make(Op::select, a[0], t.cast(a[1], type), t.cast(a[2], type));
}
NodeId select(Tree& t, const NodeId* a) {
  const NodeId reordered[] = {a[2], a[1], a[0]};
  return where(t, reordered);
}

}  // namespace

const std::vector<Function>& all_functions() {
  static const std::vector<Function> functions = {
      {"abs", 1, Takes::numbers, unary<Op::absolute>},
      {"acos", 1, Takes::floats, unary<Op::acos>},
      {"acosh", 1, Takes::floats, unary<Op::acosh>},
      {"asin", 1, Takes::floats, unary<Op::asin>},
      {"asinh", 1, Takes::floats, unary<Op::asinh>},
      {"atan", 1, Takes::floats, unary<Op::atan>},
      {"atan2", 2, Takes::floats, binary<Op::atan2>},
      {"atanh", 1, Takes::floats, unary<Op::atanh>},
      {"cbrt", 1, Takes::floats, unary<Op::cbrt>},
      {"ceil", 1, Takes::floats, unary<Op::ceil>},
      {"clamp", 3, Takes::numbers, clamp},
      {"copysign", 2, Takes::floats, binary<Op::copy_sign>},
      {"cos", 1, Takes::floats, unary<Op::cos>},
      {"cosh", 1, Takes::floats, unary<Op::cosh>},
      {"erf", 1, Takes::floats, unary<Op::erf>},
      {"erfc", 1, Takes::floats, unary<Op::erfc>},
      {"exp", 1, Takes::floats, unary<Op::exp>},
      {"exp10", 1, Takes::floats, exp10},
      {"exp2", 1, Takes::floats, unary<Op::exp2>},
      {"expm1", 1, Takes::floats, unary<Op::expm1>},
      {"fabs", 1, Takes::floats, unary<Op::absolute>},
      {"fdim", 2, Takes::floats, fdim},
      {"floor", 1, Takes::floats, unary<Op::floor>},
      {"fma", 3, Takes::floats, fma},
      {"fmax", 2, Takes::floats, binary<Op::maximum>},
      {"fmin", 2, Takes::floats, binary<Op::minimum>},
      {"fmod", 2, Takes::floats, binary<Op::remainder>},
      {"fract", 1, Takes::floats, fract},
      {"gelu", 1, Takes::floats, gelu},
      {"gelu_tanh", 1, Takes::floats, gelu_tanh},
      {"ilogb", 1, Takes::any, ilogb},
      {"isfinite", 1, Takes::floats, unary<Op::is_finite>},
      {"isinf", 1, Takes::floats, unary<Op::is_inf>},
      {"isnan", 1, Takes::floats, unary<Op::is_nan>},
      {"ldexp", 2, Takes::any, ldexp},
      {"log", 1, Takes::floats, unary<Op::log>},
      {"log10", 1, Takes::floats, unary<Op::log10>},
      {"log1p", 1, Takes::floats, unary<Op::log1p>},
      {"log2", 1, Takes::floats, unary<Op::log2>},
      {"max", 2, Takes::numbers, binary<Op::maximum>},
      {"min", 2, Takes::numbers, binary<Op::minimum>},
      {"mix", 3, Takes::floats, mix},
      {"nextafter", 2, Takes::any, nextafter},
      {"pow", 2, Takes::floats, binary<Op::power>},
      {"reciprocal", 1, Takes::floats, reciprocal},
      {"relu", 1, Takes::floats, relu},
      {"rint", 1, Takes::floats, unary<Op::rint>},
      {"round", 1, Takes::floats, unary<Op::round>},
      {"rsqrt", 1, Takes::floats, unary<Op::rsqrt>},
      {"saturate", 1, Takes::floats, saturate},
      {"select", 3, Takes::any, select},
      {"sigmoid", 1, Takes::floats, unary<Op::sigmoid>},
      {"sign", 1, Takes::floats, unary<Op::sign>},
      {"signbit", 1, Takes::floats, signbit},
      {"silu", 1, Takes::floats, silu},
      {"sin", 1, Takes::floats, unary<Op::sin>},
      {"sinh", 1, Takes::floats, unary<Op::sinh>},
      {"softplus", 1, Takes::floats, unary<Op::softplus>},
      {"sqrt", 1, Takes::floats, unary<Op::sqrt>},
      {"square", 1, Takes::numbers, square},
      {"step", 2, Takes::floats, step},
      {"tan", 1, Takes::floats, unary<Op::tan>},
      {"tanh", 1, Takes::floats, unary<Op::tanh>},
      {"trunc", 1, Takes::floats, unary<Op::trunc>},
      {"where", 3, Takes::any, where},
  };
  return functions;
}

const Function* find_function(std::string_view name) {
  for (const auto& function : all_functions()) {
    if (function.name == name) return &function;
  }
  return nullptr;
}

std::string_view without_prefix(std::string_view name) {
  for (const std::string_view prefix : {"metal::", "std::", "precise::", "fast::", "kk_"}) {
    if (name.starts_with(prefix)) name.remove_prefix(prefix.size());
  }
  return name;
}

const NamedConstant* find_constant(std::string_view name) {
  using std::numbers::pi;
  static constexpr NamedConstant kConstants[] = {
      {"INFINITY", std::numeric_limits<double>::infinity(), Type::float32},
      {"HUGE_VALF", std::numeric_limits<double>::infinity(), Type::float32},
      {"NAN", std::numeric_limits<double>::quiet_NaN(), Type::float32},
      {"FLT_MAX", FLT_MAX, Type::float32},
      {"FLT_MIN", FLT_MIN, Type::float32},
      {"FLT_EPSILON", FLT_EPSILON, Type::float32},
      {"M_PI", pi, Type::float32},
      {"M_PI_F", pi, Type::float32},
      {"M_PI_2_F", pi / 2, Type::float32},
      {"M_1_PI_F", 1 / pi, Type::float32},
      {"M_E_F", std::numbers::e, Type::float32},
      {"M_LN2_F", std::numbers::ln2, Type::float32},
      {"M_LOG2E_F", std::numbers::log2e, Type::float32},
      {"M_SQRT2_F", std::numbers::sqrt2, Type::float32},
      {"M_SQRT1_2_F", 1 / std::numbers::sqrt2, Type::float32},
      {"M_2_SQRTPI_F", 2 * std::numbers::inv_sqrtpi, Type::float32},
      {"INT_MAX", 2147483647.0, Type::int32},
      {"INT_MIN", -2147483648.0, Type::int32},
      {"UINT_MAX", 4294967295.0, Type::uint32},
      {"true", 1, Type::boolean},
      {"false", 0, Type::boolean},
  };
  for (const auto& constant : kConstants) {
    if (constant.name == name) return &constant;
  }
  return nullptr;
}

std::optional<Type> find_type(std::string_view name, Type compute_type) {
  if (name == "T" || name == "O" || name == "CT") return compute_type;
  if (name == "float") return Type::float32;
  if (name == "half" || name == "float16_t") return Type::float16;
  if (name == "bfloat" || name == "bfloat16_t") return Type::bfloat16;
  if (name == "int" || name == "int32_t") return Type::int32;
  if (name == "uint" || name == "uint32_t" || name == "unsigned") return Type::uint32;
  if (name == "bool") return Type::boolean;
  return std::nullopt;
}

}  // namespace zmlx::kernel
