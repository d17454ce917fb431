#include "kernel/row_formula.h"

#include <limits>
#include <stdexcept>

namespace zmlx::kernel {

bool RowFormula::splits() const {
  for (const auto& pass : passes) {
    if (!pass.op) return false;
  }
  return true;
}

std::vector<std::string> RowFormula::variable_names() const {
  auto all = names;
  for (size_t k = 0; k < passes.size(); ++k) {
    const auto number = std::to_string(k + 1);
    all.push_back("s" + number);
    all.push_back("acc" + number);
    all.push_back("a" + number);
    all.push_back("b" + number);
  }
  return all;
}

double identity_of(Op op, Type type) {
  const bool is_float = type == Type::float32;
  switch (op) {
    case Op::multiply:
      return 1;
    case Op::minimum:
      return is_float              ? std::numeric_limits<double>::infinity()
             : type == Type::int32 ? 2147483647.0
                                   : 4294967295.0;
    case Op::maximum:
      return is_float              ? -std::numeric_limits<double>::infinity()
             : type == Type::int32 ? -2147483648.0
                                   : 0.0;
    case Op::bit_and:
      return type == Type::int32 ? -1.0 : 4294967295.0;
    default:
      return 0;
  }
}

void split_update(const Tree& tree, int accumulator, Pass& pass) {
  const Node& update = tree[pass.update];
  switch (update.op) {
    case Op::add:
    case Op::multiply:
    case Op::minimum:
    case Op::maximum:
    case Op::bit_and:
    case Op::bit_or:
    case Op::bit_xor:
      break;
    default:
      return;
  }
  const auto is_accumulator = [&](NodeId id) {
    return tree[id].op == Op::variable && tree[id].value == accumulator;
  };
  for (int i : {0, 1}) {
    const NodeId other = update.args[1 - i];
    if (!is_accumulator(update.args[i])) continue;
    const auto needed = reachable(tree, {other});
    for (NodeId id = 0; id <= other; ++id) {
      if (needed[id] && is_accumulator(id)) return;
    }
    pass.op = update.op;
    pass.element = other;
    return;
  }
}

RowFormula without_unused_passes(const RowFormula& formula) {
  const size_t inputs = formula.names.size(), passes = formula.passes.size();
  std::vector<NodeId> wanted;
  for (const auto& output : formula.outputs) wanted.push_back(output.root);
  std::vector<bool> used(passes, false);
  // A pass needs earlier ones only.
  for (size_t k = passes; k-- > 0;) {
    const auto needed = reachable(formula.tree, wanted);
    for (size_t id = 0; id < needed.size(); ++id) {
      const Node& node = formula.tree[static_cast<NodeId>(id)];
      used[k] =
          used[k] || (needed[id] && node.op == Op::variable && node.value == formula.result(k));
    }
    if (used[k]) wanted.push_back(formula.passes[k].element);
  }
  RowFormula made;
  made.names = formula.names;
  made.types = formula.types;
  made.per_row = formula.per_row;
  std::vector<NodeId> variables(formula.variables(), -1), roots;
  for (size_t n = 0; n < inputs; ++n) {
    variables[n] = made.tree.variable(static_cast<int>(n), formula.types[n]);
  }
  for (size_t k = 0; k < passes; ++k) {
    if (!used[k]) continue;
    made.passes.push_back(formula.passes[k]);
    const int result = made.result(made.passes.size() - 1);
    for (int i = 0; i < 4; ++i) {
      variables[formula.result(k) + i] = made.tree.variable(result + i, formula.passes[k].type);
    }
    roots.push_back(formula.passes[k].element);
  }
  for (const auto& output : formula.outputs) roots.push_back(output.root);
  const auto copied = copy(formula.tree, roots, made.tree, variables);
  for (size_t k = 0; k < made.passes.size(); ++k) made.passes[k].element = copied[k];
  for (size_t o = 0; o < formula.outputs.size(); ++o) {
    made.outputs.push_back({copied[made.passes.size() + o], formula.outputs[o].per_row});
  }
  return made;
}

}  // namespace zmlx::kernel
