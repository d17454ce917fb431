#include "kernel/emit.h"

#include <algorithm>

namespace zmlx::kernel {

namespace {

/// How deeply expressions may lie within one statement: compilers bound it, readers too.
constexpr int kDeepest = 12;

class Printer {
 public:
  Printer(const Tree& tree, const std::vector<std::string>& variables, const Dialect& dialect,
          const std::string& prefix, const std::string& indent, const Known& known)
      : tree_(tree),
        variables_(variables),
        dialect_(dialect),
        prefix_(prefix),
        indent_(indent),
        known_(known) {}

  Printed run(const std::vector<NodeId>& roots) {
    std::vector<int> uses(tree_.size(), 0);
    for (NodeId id : roots) ++uses[id];
    for (auto id = static_cast<NodeId>(tree_.size()) - 1; id >= 0; --id) {
      if (uses[id] == 0 || known_.values.contains(id)) continue;
      const Node& node = tree_[id];
      for (int i = 0; i < arity(node.op); ++i) {
        if (!(i == 1 && has_divisor(node))) ++uses[node.args[i]];
      }
    }
    texts_.resize(tree_.size());
    depths_.assign(tree_.size(), 0);
    for (size_t id = 0; id < tree_.size(); ++id) {
      if (uses[id] > 0) node(static_cast<NodeId>(id), uses[id]);
    }
    Printed printed{std::move(statements_), {}};
    for (NodeId id : roots) printed.results.push_back(texts_[id]);
    return printed;
  }

 private:
  bool has_divisor(const Node& node) const {
    return node.op == Op::divide && known_.divisors.contains(node.args[1]);
  }

  void node(NodeId id, int uses) {
    if (const auto found = known_.values.find(id); found != known_.values.end()) {
      texts_[id] = found->second;
      return;
    }
    const Node& node = tree_[id];
    if (node.op == Op::constant) {
      texts_[id] = dialect_.number(node.value, node.type);
      return;
    }
    if (node.op == Op::variable) {
      texts_[id] = variables_.at(static_cast<size_t>(node.value));
      return;
    }
    std::vector<std::string> args;
    for (int i = 0; i < arity(node.op); ++i) {
      args.push_back(texts_[node.args[i]]);
      depths_[id] = std::max(depths_[id], depths_[node.args[i]] + 1);
    }
    texts_[id] = operation(node, args);
    if (uses < 2 && depths_[id] < kDeepest) return;
    const std::string name = prefix_ + std::to_string(count_++);
    statements_ +=
        indent_ + "const " + dialect_.type(node.type) + " " + name + " = " + texts_[id] + ";\n";
    texts_[id] = name;
    depths_[id] = 0;
  }

  std::string operation(const Node& node, const std::vector<std::string>& args) const {
    const Type argument = tree_.type(node.args[node.op == Op::select ? 1 : 0]);
    if (has_divisor(node)) {
      return dialect_.quotient() + "(" + args[0] + ", " + known_.divisors.at(node.args[1]) + ")";
    }
    if (node.op == Op::select) return "(" + args[0] + " ? " + args[1] + " : " + args[2] + ")";
    if (node.op == Op::cast) return cast(node.type, argument, args[0]);
    if (const auto function = dialect_.function(node.op, argument); !function.empty()) {
      std::string call = function + "(";
      for (size_t i = 0; i < args.size(); ++i) call += (i ? ", " : "") + args[i];
      return call + ")";
    }
    if (args.size() == 1) return std::string("(") + op_name(node.op) + args[0] + ")";
    // Shifts take the low five bits; the count is of the left side's type.
    const bool shift = node.op == Op::shift_left || node.op == Op::shift_right;
    const std::string right = shift ? "(" + args[1] + " & 31)" : args[1];
    const std::string text = "(" + args[0] + " " + op_name(node.op) + " " + right + ")";
    if (node.op != Op::shift_left || argument != Type::int32) return text;
    return "static_cast<int>(static_cast<" + std::string(dialect_.type(Type::uint32)) + ">(" +
           args[0] + ") << " + right + ")";
  }

  std::string cast(Type to, Type from, const std::string& arg) const {
    if (to == Type::boolean) return "(" + arg + " != 0)";
    const bool from_float = from == Type::float32;
    if (from_float && to == Type::int32) return dialect_.to_int() + "(" + arg + ")";
    if (from_float && to == Type::uint32) return dialect_.to_uint() + "(" + arg + ")";
    return std::string("static_cast<") + dialect_.type(to) + ">(" + arg + ")";
  }

  const Tree& tree_;
  const std::vector<std::string>& variables_;
  const Dialect& dialect_;
  const std::string prefix_, indent_;
  const Known& known_;
  std::vector<std::string> texts_;
  std::vector<int> depths_;
  std::string statements_;
  int count_ = 0;
};

}  // namespace

Printed print(const Tree& tree, const std::vector<NodeId>& roots,
              const std::vector<std::string>& variables, const Dialect& dialect,
              const std::string& prefix, const std::string& indent, const Known& known) {
  return Printer(tree, variables, dialect, prefix, indent, known).run(roots);
}

}  // namespace zmlx::kernel
