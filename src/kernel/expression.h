#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <unordered_map>
#include <vector>

/// The typed expressions behind kernels, of scalars; no framework, no backend.
///
/// Expressions live in a Tree, which keeps each distinct one once: what is written twice is
/// computed once (common subexpressions), and equal expressions have equal ids.
namespace zmlx::kernel {

/// int32 and uint32 wrap around; float32 is what `T` is by default. Formulas are written in all
/// types; the 16-bit ones are gone when a formula is differentiated or computed (half_types.h).
enum class Type : uint8_t { boolean, int32, uint32, float32, float16, bfloat16 };

const char* type_name(Type type);
constexpr bool is_float(Type type) { return type >= Type::float32; }
constexpr bool is_half(Type type) { return type > Type::float32; }

enum class Op : uint8_t {
  constant,
  variable,
  // Numbers of any one type.
  add,
  subtract,
  multiply,
  divide,     ///< of integers: towards zero; by zero it is zero
  remainder,  ///< C's % and fmod
  negate,
  minimum,  ///< of a number and a NaN, the number, as C's fmin
  maximum,
  absolute,
  // Integers.
  bit_and,
  bit_or,
  bit_xor,
  bit_not,
  shift_left,   ///< by the low five bits
  shift_right,  ///< of int32 keeps the sign
  // To bool.
  equal,
  not_equal,
  less,
  less_equal,
  logical_and,
  logical_or,
  logical_not,
  is_nan,
  is_inf,
  is_finite,
  // Any type.
  select,  ///< (condition, if true, if false)
  cast,    ///< float32 to integers: towards zero, ends kept, NaN is zero
  // Floats.
  fused_multiply_add,
  power,
  atan2,
  copy_sign,
  load_exponent,  ///< a * 2^b of a whole number b
  next_after,     ///< the next float32 from a towards b
  exp,
  exp2,
  expm1,
  log,
  log2,
  log10,
  log1p,
  sqrt,
  rsqrt,
  cbrt,
  sin,
  cos,
  tan,
  asin,
  acos,
  atan,
  sinh,
  cosh,
  tanh,
  asinh,
  acosh,
  atanh,
  erf,
  erfc,      ///< 1 - erf(x)
  sigmoid,   ///< 1 / (1 + exp(-x))
  softplus,  ///< log(1 + exp(x))
  floor,
  ceil,
  trunc,
  round,  ///< halves away from zero
  rint,   ///< halves to even
  sign,   ///< -1, 0 or 1
  // float32.
  exponent,     ///< floor(log2(|a|)); of 0 and NaN minus infinity
  to_float16,   ///< rounded to what float16 has, halves to even
  to_bfloat16,  ///< the same for bfloat16
};
constexpr size_t kOps = static_cast<size_t>(Op::to_bfloat16) + 1;

/// How many arguments an operation has; 0 for leaves.
int arity(Op op);
/// Name in `explain` and errors.
const char* op_name(Op op);

using NodeId = int32_t;

struct Node {
  Op op;
  Type type;
  std::array<NodeId, 3> args{-1, -1, -1};  ///< less than the node's own id
  double value = 0;                        ///< a constant's value, or a variable's number
  bool operator==(const Node&) const = default;
};

/// Bounds on what may be written, so that no input takes unreasonable time or memory.
constexpr size_t kMaxSourceLength = 64 * 1024;
constexpr int kMaxNesting = 200;
constexpr size_t kMaxNodes = 20'000;

class Tree {
 public:
  /// The simplified form of an operation on simplified arguments. Arguments have the types that
  /// the operation wants: `converted` and `common_type` see to that.
  /// @throws std::length_error beyond kMaxNodes.
  NodeId make(Op op, NodeId a, NodeId b = -1, NodeId c = -1);
  NodeId cast(NodeId a, Type type);
  NodeId constant(double value, Type type = Type::float32);
  NodeId variable(int number, Type type = Type::float32);
  /// The node as it is, without simplification.
  NodeId intern(const Node& node);

  const Node& operator[](NodeId id) const { return nodes_[id]; }
  Type type(NodeId id) const { return nodes_[id].type; }
  size_t size() const { return nodes_.size(); }
  bool is_constant(NodeId id) const { return nodes_[id].op == Op::constant; }
  bool is_constant(NodeId id, double value) const {
    return is_constant(id) && nodes_[id].value == value;
  }

  // Shorthands for float32 expressions.
  NodeId add(NodeId a, NodeId b) { return make(Op::add, a, b); }
  NodeId sub(NodeId a, NodeId b) { return make(Op::subtract, a, b); }
  NodeId mul(NodeId a, NodeId b) { return make(Op::multiply, a, b); }
  NodeId div(NodeId a, NodeId b) { return make(Op::divide, a, b); }

 private:
  struct Hash {
    size_t operator()(const Node& node) const;
  };
  std::vector<Node> nodes_;
  std::unordered_map<Node, NodeId, Hash> ids_;
};

/// The type that C's conversions give an operation on both; of float16 and bfloat16 float32.
Type common_type(Type a, Type b);

/// The type of an operation's result, given its arguments' (equal) type.
Type result_type(Op op, Type argument);

/// Rounds or wraps `value` as a value of the type.
double as_type(double value, Type type);

/// For each node whether one of `roots` needs it.
std::vector<bool> reachable(const Tree& tree, const std::vector<NodeId>& roots);

/// Copies what `roots` need into `to`, with variable n replaced by `variables[n]`.
std::vector<NodeId> copy(const Tree& from, const std::vector<NodeId>& roots, Tree& to,
                         const std::vector<NodeId>& variables);

/// For people: "(x * sigmoid(x))", at most `limit` characters.
std::string to_string(const Tree& tree, NodeId id, const std::vector<std::string>& names,
                      size_t limit = 2000);

}  // namespace zmlx::kernel
