#include "kernel/expression.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdio>
#include <iterator>
#include <limits>
#include <stdexcept>

#include "kernel/simplify.h"

namespace zmlx::kernel {

namespace {

struct OpInfo {
  const char* name;
  int arity;
};

/// In the order of Op.
constexpr OpInfo kInfo[] = {
    {"constant", 0}, {"variable", 0}, {"+", 2},        {"-", 2},     {"*", 2},
    {"/", 2},        {"%", 2},        {"-", 1},        {"min", 2},   {"max", 2},
    {"abs", 1},      {"&", 2},        {"|", 2},        {"^", 2},     {"~", 1},
    {"<<", 2},       {">>", 2},       {"==", 2},       {"!=", 2},    {"<", 2},
    {"<=", 2},       {"&&", 2},       {"||", 2},       {"!", 1},     {"isnan", 1},
    {"isinf", 1},    {"isfinite", 1}, {"?", 3},        {"cast", 1},  {"fma", 3},
    {"pow", 2},      {"atan2", 2},    {"copysign", 2}, {"ldexp", 2}, {"nextafter", 2},
    {"exp", 1},      {"exp2", 1},     {"expm1", 1},    {"log", 1},   {"log2", 1},
    {"log10", 1},    {"log1p", 1},    {"sqrt", 1},     {"rsqrt", 1}, {"cbrt", 1},
    {"sin", 1},      {"cos", 1},      {"tan", 1},      {"asin", 1},  {"acos", 1},
    {"atan", 1},     {"sinh", 1},     {"cosh", 1},     {"tanh", 1},  {"asinh", 1},
    {"acosh", 1},    {"atanh", 1},    {"erf", 1},      {"erfc", 1},  {"sigmoid", 1},
    {"softplus", 1}, {"floor", 1},    {"ceil", 1},     {"trunc", 1}, {"round", 1},
    {"rint", 1},     {"sign", 1},     {"ilogb", 1},    {"half", 1},  {"bfloat", 1},
};
static_assert(std::size(kInfo) == kOps);

bool is_infix(Op op) {
  return (op >= Op::add && op <= Op::remainder) || (op >= Op::bit_and && op <= Op::bit_xor) ||
         (op >= Op::shift_left && op <= Op::logical_or);
}

}  // namespace

const char* type_name(Type type) {
  constexpr const char* kNames[] = {"bool", "int", "uint", "float", "half", "bfloat"};
  return kNames[static_cast<int>(type)];
}

int arity(Op op) { return kInfo[static_cast<size_t>(op)].arity; }
const char* op_name(Op op) { return kInfo[static_cast<size_t>(op)].name; }

size_t Tree::Hash::operator()(const Node& node) const {
  uint64_t hash = static_cast<uint64_t>(node.op) << 8 | static_cast<uint64_t>(node.type);
  const auto mix = [&](uint64_t value) {
    hash = (hash ^ value) * 0xff51afd7ed558ccd;
    hash ^= hash >> 32;
  };
  for (NodeId id : node.args) mix(static_cast<uint32_t>(id));
  mix(std::bit_cast<uint64_t>(node.value));
  return hash;
}

NodeId Tree::intern(const Node& node) {
  // NaN is unequal to itself, and -0 equal to 0, so neither would be found by comparison: -0 is
  // kept apart from 0 by the hash only when it is looked up, so both are added without.
  const bool odd = std::isnan(node.value) || (node.value == 0 && std::signbit(node.value));
  if (!odd) {
    if (const auto found = ids_.find(node); found != ids_.end()) return found->second;
  }
  if (nodes_.size() >= kMaxNodes) {
    throw std::length_error("the expression has more than " + std::to_string(kMaxNodes) +
                            " operations");
  }
  nodes_.push_back(node);
  const auto id = static_cast<NodeId>(nodes_.size() - 1);
  if (!odd) ids_.emplace(node, id);
  return id;
}

NodeId Tree::constant(double value, Type type) {
  return intern({Op::constant, type, {-1, -1, -1}, as_type(value, type)});
}

NodeId Tree::variable(int number, Type type) {
  return intern({Op::variable, type, {-1, -1, -1}, static_cast<double>(number)});
}

NodeId Tree::make(Op op, NodeId a, NodeId b, NodeId c) {
  const Type argument = type(op == Op::select ? b : a);
  return simplify(*this, {op, result_type(op, argument), {a, b, c}, 0});
}

NodeId Tree::cast(NodeId a, Type type) { return simplify(*this, {Op::cast, type, {a, -1, -1}, 0}); }

Type common_type(Type a, Type b) {
  if (a != b && is_float(a) && is_float(b)) return Type::float32;
  return std::max({a, b, Type::int32});
}

Type result_type(Op op, Type argument) {
  return op >= Op::equal && op <= Op::is_finite ? Type::boolean : argument;
}

namespace {

/// The nearest number of so many binary digits, halves to even.
double rounded(double value, int digits, int least_exponent, double largest) {
  if (value == 0 || !std::isfinite(value)) return value;
  int exponent;
  std::frexp(value, &exponent);
  const int unit = std::max(exponent - digits, least_exponent);
  const double result = std::ldexp(std::nearbyint(std::ldexp(value, -unit)), unit);
  if (std::abs(result) <= largest) return result;
  return std::copysign(std::numeric_limits<double>::infinity(), value);
}

}  // namespace

double as_type(double value, Type type) {
  if (is_float(type)) {
    // 16-bit numbers come of float32 ones, at run time too.
    const double single = static_cast<float>(value);
    if (type == Type::float16) return rounded(single, 11, -24, 65504);
    return type == Type::bfloat16 ? rounded(single, 8, -133, 0x1.FEp127) : single;
  }
  if (type == Type::boolean) return value != 0;
  // Wraps around; values come from 32-bit operations, so they fit into 64 bits.
  const auto wide = std::isfinite(value) ? static_cast<int64_t>(std::trunc(value)) : 0;
  if (type == Type::int32) return static_cast<int32_t>(static_cast<uint32_t>(wide));
  return static_cast<uint32_t>(wide);
}

std::vector<bool> reachable(const Tree& tree, const std::vector<NodeId>& roots) {
  std::vector<bool> needed(tree.size(), false);
  for (NodeId id : roots) needed[id] = true;
  for (auto id = static_cast<NodeId>(tree.size()) - 1; id >= 0; --id) {
    if (!needed[id]) continue;
    for (int i = 0; i < arity(tree[id].op); ++i) needed[tree[id].args[i]] = true;
  }
  return needed;
}

std::vector<NodeId> copy(const Tree& from, const std::vector<NodeId>& roots, Tree& to,
                         const std::vector<NodeId>& variables) {
  const auto needed = reachable(from, roots);
  std::vector<NodeId> copied(from.size(), -1);
  for (NodeId id = 0; id < static_cast<NodeId>(from.size()); ++id) {
    if (!needed[id]) continue;
    Node node = from[id];
    if (node.op == Op::variable) {
      copied[id] = variables.at(static_cast<size_t>(node.value));
      continue;
    }
    for (int i = 0; i < arity(node.op); ++i) node.args[i] = copied[node.args[i]];
    copied[id] = simplify(to, node);
  }
  std::vector<NodeId> result;
  for (NodeId id : roots) result.push_back(copied[id]);
  return result;
}

namespace {

std::string number_text(const Node& node) {
  char text[40];
  if (node.type == Type::boolean) return node.value != 0 ? "true" : "false";
  std::snprintf(text, sizeof(text), "%.9g", node.value);
  return text;
}

void append(const Tree& tree, NodeId id, const std::vector<std::string>& names, size_t limit,
            std::string& out) {
  if (out.size() > limit) return;
  const Node& node = tree[id];
  const auto argument = [&](int i) { append(tree, node.args[i], names, limit, out); };
  if (node.op == Op::constant) {
    out += number_text(node);
  } else if (node.op == Op::variable) {
    out += names.at(static_cast<size_t>(node.value));
  } else if (node.op == Op::select) {
    out += "(";
    argument(0);
    out += " ? ";
    argument(1);
    out += " : ";
    argument(2);
    out += ")";
  } else if (is_infix(node.op)) {
    out += "(";
    argument(0);
    out += std::string(" ") + op_name(node.op) + " ";
    argument(1);
    out += ")";
  } else {
    out += std::string(node.op == Op::cast ? type_name(node.type) : op_name(node.op)) + "(";
    for (int i = 0; i < arity(node.op); ++i) {
      if (i > 0) out += ", ";
      argument(i);
    }
    out += ")";
  }
}

}  // namespace

std::string to_string(const Tree& tree, NodeId id, const std::vector<std::string>& names,
                      size_t limit) {
  std::string out;
  append(tree, id, names, limit, out);
  if (out.size() > limit) out = out.substr(0, limit) + "...";
  return out;
}

}  // namespace zmlx::kernel
