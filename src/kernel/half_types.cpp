#include "kernel/half_types.h"

#include "kernel/simplify.h"

namespace zmlx::kernel {

namespace {

/// Whether a result is a number of the arguments' type in any case.
bool is_exact(Op op) {
  switch (op) {
    case Op::constant:
    case Op::remainder:
    case Op::negate:
    case Op::minimum:
    case Op::maximum:
    case Op::absolute:
    case Op::select:
    case Op::copy_sign:
    case Op::floor:
    case Op::ceil:
    case Op::trunc:
    case Op::round:
    case Op::rint:
    case Op::sign:
      return true;
    default:
      return false;
  }
}

NodeId rounded(Tree& tree, NodeId id, Type type) {
  return tree.make(type == Type::float16 ? Op::to_float16 : Op::to_bfloat16, id);
}

}  // namespace

std::vector<NodeId> without_half_types(const Tree& from, const std::vector<NodeId>& roots,
                                       Tree& to) {
  const auto needed = reachable(from, roots);
  std::vector<NodeId> copied(from.size(), -1);
  for (NodeId id = 0; id < static_cast<NodeId>(from.size()); ++id) {
    if (!needed[id]) continue;
    Node node = from[id];
    const Type type = node.type;
    node.type = computed_as(type);
    for (int i = 0; i < arity(node.op); ++i) node.args[i] = copied[node.args[i]];
    // simplify() drops a cast between types that are computed in the same one.
    copied[id] = simplify(to, node);
    const bool exact =
        is_exact(node.op) || (node.op == Op::cast && from.type(from[id].args[0]) == Type::boolean);
    if (is_half(type) && !exact) copied[id] = rounded(to, copied[id], type);
  }
  std::vector<NodeId> result;
  for (NodeId id : roots) result.push_back(copied[id]);
  return result;
}

}  // namespace zmlx::kernel
