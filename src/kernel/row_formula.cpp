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

}  // namespace zmlx::kernel
