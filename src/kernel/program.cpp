#include "kernel/program.h"

#include <algorithm>
#include <bit>
#include <unordered_map>
#include <utility>

namespace zmlx::kernel {

namespace {

uint32_t bits_of(const Node& constant) {
  if (constant.type == Type::float32) {
    return std::bit_cast<uint32_t>(static_cast<float>(constant.value));
  }
  return static_cast<uint32_t>(static_cast<int64_t>(constant.value));
}

class Compiler {
 public:
  Compiler(const Tree& tree, const std::vector<NodeId>& roots, const std::vector<bool>& varying,
           const std::vector<std::pair<NodeId, int>>& materialized)
      : tree_(tree), roots_(roots), varying_(varying) {
    for (const auto& [id, number] : materialized) materialized_[id] = number;
  }

  Program run() {
    classify();
    fuse();
    find_polynomials();
    place_leaves();
    count_uses();
    order();
    for (NodeId id : roots_) program_.outputs.push_back(places_[id]);
    return std::move(program_);
  }

 private:
  bool is_leaf(NodeId id) const { return arity(tree_[id].op) == 0 || materialized_.contains(id); }

  /// What is needed, and what of it varies between elements.
  void classify() {
    const size_t count = tree_.size();
    needed_.assign(count, false);
    for (NodeId id : roots_) needed_[id] = true;
    for (auto id = static_cast<NodeId>(count) - 1; id >= 0; --id) {
      if (!needed_[id] || is_leaf(id)) continue;
      for (int i = 0; i < arity(tree_[id].op); ++i) needed_[tree_[id].args[i]] = true;
    }
    varies_.assign(count, false);
    for (NodeId id = 0; id < static_cast<NodeId>(count); ++id) {
      if (!needed_[id]) continue;
      const Node& node = tree_[id];
      if (materialized_.contains(id)) {
        varies_[id] = true;
      } else if (node.op == Op::variable) {
        varies_[id] = varying_[static_cast<size_t>(node.value)];
      }
      if (is_leaf(id)) continue;
      for (int i = 0; i < arity(node.op); ++i) varies_[id] = varies_[id] || varies_[node.args[i]];
    }
    places_.resize(count);
    fused_.assign(count, false);
    uses_.assign(count, 0);
  }

  void place_leaves() {
    for (NodeId id = 0; id < static_cast<NodeId>(tree_.size()); ++id) {
      if (!needed_[id] || tree_[id].op != Op::constant) continue;
      places_[id] = {Operand::Kind::uniform, static_cast<uint16_t>(program_.constants.size())};
      program_.constants.push_back(bits_of(tree_[id]));
    }
    for (auto& [id, polynomial] : polynomials_) {
      polynomial.first = static_cast<uint16_t>(program_.constants.size());
      for (NodeId c : polynomial.coefficients) program_.constants.push_back(bits_of(tree_[c]));
    }
    program_.uniforms = program_.constants.size();
    for (NodeId id = 0; id < static_cast<NodeId>(tree_.size()); ++id) {
      if (!needed_[id] || !is_leaf(id) || tree_[id].op == Op::constant) continue;
      const auto found = materialized_.find(id);
      const int number =
          found != materialized_.end() ? found->second : static_cast<int>(tree_[id].value);
      if (varies_[id]) {
        places_[id] = {Operand::Kind::input, static_cast<uint16_t>(program_.inputs.size())};
        program_.inputs.push_back(number);
      } else {
        places_[id] = {Operand::Kind::uniform, static_cast<uint16_t>(program_.uniforms++)};
        program_.uniform_variables.push_back(number);
      }
    }
  }

  /// What only one operation uses may go into it: one instruction, and one rounding less.
  void fuse() {
    auto& uses = uses_before_;
    uses.assign(tree_.size(), 0);
    for (NodeId id : roots_) uses[id] += 2;  // must be there by itself
    for (NodeId id = 0; id < static_cast<NodeId>(tree_.size()); ++id) {
      if (!needed_[id] || is_leaf(id)) continue;
      for (int i = 0; i < arity(tree_[id].op); ++i) ++uses[tree_[id].args[i]];
    }
    into_.assign(tree_.size(), -1);
    for (NodeId id = 0; id < static_cast<NodeId>(tree_.size()); ++id) {
      const Node& node = tree_[id];
      if (!needed_[id] || node.type != Type::float32 || is_leaf(id) || !varies_[id]) continue;
      for (int i = 0; i < arity(node.op) && into_[id] < 0; ++i) {
        const NodeId inner = node.args[i];
        if (uses[inner] != 1 || fused_[inner] || is_leaf(inner) || !varies_[inner]) continue;
        if (!goes_into(inner, id, i)) continue;
        fused_[inner] = true;
        into_[id] = i;
      }
    }
    // Products of three, of what no sum takes.
    for (NodeId id = 0; id < static_cast<NodeId>(tree_.size()); ++id) {
      const Node& node = tree_[id];
      if (!needed_[id] || node.op != Op::multiply || node.type != Type::float32) continue;
      if (is_leaf(id) || !varies_[id] || fused_[id]) continue;
      for (int i = 0; i < 2 && into_[id] < 0; ++i) {
        const NodeId inner = node.args[i];
        if (tree_[inner].op != Op::multiply || uses[inner] != 1 || fused_[inner]) continue;
        if (into_[inner] >= 0 || is_leaf(inner) || !varies_[inner]) continue;
        fused_[inner] = true;
        into_[id] = i;
      }
    }
  }

  /// Whether an operation and its argument i are one instruction: products and sums, and what
  /// neural networks are full of.
  bool goes_into(NodeId inner, NodeId outer, int i) const {
    const Node& node = tree_[outer];
    if (into_[inner] >= 0) return node.op == Op::add && is_scaled_square(inner);
    switch (tree_[inner].op) {
      case Op::multiply:
        if (node.op == Op::multiply) return squared(inner, node.args[1 - i]) >= 0;
        return node.op == Op::add || node.op == Op::subtract;
      case Op::tanh:
        return node.op == Op::add && tree_.is_constant(node.args[1 - i], 1);
      case Op::softplus:
        return node.op == Op::tanh;
      case Op::subtract:
        return node.op == Op::exp;
      case Op::less:
      case Op::less_equal:
        return node.op == Op::select && i == 0 && uniform_side(inner) >= 0;
      default:
        return false;
    }
  }

  bool is_scaled_square(NodeId id) const {
    if (tree_[id].op != Op::multiply || into_[id] < 0) return false;
    return squared(tree_[id].args[into_[id]], tree_[id].args[1 - into_[id]]) >= 0;
  }

  /// Which argument of a comparison of floats is uniform, if the other is not; or -1.
  int uniform_side(NodeId comparison) const {
    const auto& args = tree_[comparison].args;
    if (tree_.type(args[0]) != Type::float32) return -1;
    for (int i : {0, 1}) {
      if (!varies_[args[i]] && varies_[args[1 - i]]) return i;
    }
    return -1;
  }

  /// Which argument of c * x is a uniform c, if the other is `x`; or -1.
  int squared(NodeId product, NodeId x) const {
    const auto& args = tree_[product].args;
    for (int i : {0, 1}) {
      if (args[1 - i] == x && !varies_[args[i]]) return i;
    }
    return -1;
  }

  /// A chain of products and sums with constants: t * x + c[0], that times x plus c[1], and so on.
  struct Polynomial {
    NodeId t, x;
    std::vector<NodeId> coefficients;
    uint16_t first = 0;  ///< uniform
  };

  /// The constant in inner * x + constant, or -1.
  NodeId coefficient(NodeId id) const {
    if (into_[id] < 0 || tree_[id].op != Op::add) return -1;
    const NodeId inner = tree_[id].args[into_[id]];
    if (tree_[inner].op != Op::multiply || into_[inner] >= 0) return -1;
    const NodeId c = tree_[id].args[1 - into_[id]];
    return tree_.is_constant(c) ? c : -1;
  }

  void find_polynomials() {
    std::vector<bool> taken(tree_.size(), false);
    for (auto id = static_cast<NodeId>(tree_.size()) - 1; id >= 0; --id) {
      if (!needed_[id] || fused_[id] || taken[id] || coefficient(id) < 0) continue;
      for (int i : {0, 1}) {
        const NodeId x = tree_[tree_[id].args[into_[id]]].args[i];
        if (!varies_[x]) continue;
        Polynomial found{id, x, {}};
        std::vector<NodeId> inside;
        // From the outermost inwards.
        while (found.coefficients.size() < kMostCoefficients) {
          const NodeId c = coefficient(found.t);
          if (c < 0 || (found.t != id && (uses_before_[found.t] != 1 || taken[found.t]))) break;
          const auto& product = tree_[tree_[found.t].args[into_[found.t]]];
          if (product.args[0] != x && product.args[1] != x) break;
          if (found.t != id) inside.push_back(found.t);
          found.coefficients.insert(found.coefficients.begin(), c);
          found.t = product.args[product.args[0] == x ? 1 : 0];
        }
        if (found.coefficients.size() < 2) continue;
        for (NodeId n : inside) taken[n] = fused_[n] = true;
        polynomials_.emplace(id, std::move(found));
        break;
      }
    }
  }

  /// The arguments of the instruction that computes `id`.
  std::vector<NodeId> arguments(NodeId id) const {
    const Node& node = tree_[id];
    if (const auto found = polynomials_.find(id); found != polynomials_.end()) {
      return {found->second.t, found->second.x};
    }
    if (into_[id] < 0) return {node.args.begin(), node.args.begin() + arity(node.op)};
    const Node& inner = tree_[node.args[into_[id]]];
    switch (inner.op) {
      case Op::multiply:
        if (is_scaled_square(id)) {
          const NodeId x = node.args[1 - into_[id]];
          return {x, inner.args[squared(node.args[into_[id]], x)]};
        }
        if (is_scaled_square(node.args[into_[id]])) {
          auto all = arguments(node.args[into_[id]]);
          all.push_back(node.args[1 - into_[id]]);
          return all;
        }
        return {inner.args[0], inner.args[1], node.args[1 - into_[id]]};
      case Op::less:
      case Op::less_equal: {
        const int side = uniform_side(node.args[0]);
        return {inner.args[1 - side], node.args[1], node.args[2], inner.args[side]};
      }
      case Op::subtract:
        return {inner.args[0], inner.args[1]};
      default:
        return {inner.args[0]};
    }
  }

  KernelIndex kernel(NodeId id) const {
    const Node& node = tree_[id];
    if (const auto found = polynomials_.find(id); found != polynomials_.end()) {
      return static_cast<KernelIndex>(kHorner + found->second.coefficients.size() - 2);
    }
    if (into_[id] >= 0) {
      const NodeId fused = node.args[into_[id]];
      const Op inner = tree_[fused].op;
      if (inner == Op::tanh) return kOnePlusTanh;
      if (inner == Op::softplus) return kTanhSoftplus;
      if (inner == Op::subtract) return kExpDifference;
      if (node.op == Op::select) {
        return static_cast<KernelIndex>(kChoose + (inner == Op::less_equal) +
                                        2 * (uniform_side(fused) == 0));
      }
      if (node.op == Op::multiply) return is_scaled_square(id) ? kScaledSquare : kProduct;
      if (is_scaled_square(fused)) return kScaledSquareAdd;
      if (node.op == Op::add) return kernel_index(Op::fused_multiply_add, Type::float32);
      return into_[id] == 0 ? kMultiplySubtract : kNegativeMultiplyAdd;
    }
    const Type argument = tree_.type(node.args[node.op == Op::select ? 1 : 0]);
    if (node.op != Op::cast) return kernel_index(node.op, argument);
    return static_cast<KernelIndex>(kCastKernels + static_cast<int>(argument) * 4 +
                                    static_cast<int>(node.type));
  }

  void count_uses() {
    for (NodeId id : roots_) uses_[id] += 1 << 20;  // lives to the end
    for (NodeId id = 0; id < static_cast<NodeId>(tree_.size()); ++id) {
      if (!needed_[id] || fused_[id] || is_leaf(id)) continue;
      for (NodeId a : arguments(id)) ++uses_[a];
    }
  }

  /// Emits each expression right before the one that it is an argument of, so that as much as
  /// possible stays in the tile. Of several arguments the one that takes most registers is first.
  void order() {
    std::vector<int> registers(tree_.size(), 0);
    for (NodeId id = 0; id < static_cast<NodeId>(tree_.size()); ++id) {
      if (!needed_[id] || fused_[id] || is_leaf(id)) continue;
      int most = 0, as_many = 0;
      for (NodeId a : arguments(id)) {
        as_many = registers[a] > most ? 1 : as_many + (registers[a] == most);
        most = std::max(most, registers[a]);
      }
      registers[id] = std::max(1, most + (most > 0 && as_many > 1));
    }
    std::vector<bool> emitted(tree_.size(), false);
    std::vector<NodeId> stack(roots_.rbegin(), roots_.rend());
    while (!stack.empty()) {
      const NodeId id = stack.back();
      std::vector<NodeId> before;
      if (!emitted[id] && !is_leaf(id)) before = arguments(id);
      std::erase_if(before, [&](NodeId a) { return emitted[a] || is_leaf(a); });
      if (!before.empty()) {
        std::stable_sort(before.begin(), before.end(),
                         [&](NodeId a, NodeId b) { return registers[a] > registers[b]; });
        stack.insert(stack.end(), before.rbegin(), before.rend());
        continue;
      }
      stack.pop_back();
      if (emitted[id] || is_leaf(id)) continue;
      emitted[id] = true;
      emit(id);
    }
  }

  uint16_t free_register() {
    if (free_.empty()) return static_cast<uint16_t>(program_.registers++);
    const uint16_t index = free_.back();
    free_.pop_back();
    return index;
  }

  void emit(NodeId id) {
    const auto args = arguments(id);
    Instruction instruction{kernel(id), static_cast<uint8_t>(args.size()), {}, {}};
    for (size_t i = 0; i < args.size(); ++i) instruction.args[i] = places_[args[i]];
    if (const auto found = polynomials_.find(id); found != polynomials_.end()) {
      instruction.args[instruction.arguments++] = {Operand::Kind::uniform, found->second.first};
    }
    if (!varies_[id]) {
      places_[id] = {Operand::Kind::uniform, static_cast<uint16_t>(program_.uniforms++)};
    } else {
      // An argument's register may take the result: kernels read an element before they write it.
      for (NodeId a : args) {
        if (--uses_[a] == 0 && places_[a].kind == Operand::Kind::block && !is_leaf(a)) {
          free_.push_back(places_[a].index);
        }
      }
      places_[id] = {Operand::Kind::block, free_register()};
    }
    instruction.out = places_[id];
    (varies_[id] ? program_.code : program_.uniform_code).push_back(instruction);
  }

  const Tree& tree_;
  const std::vector<NodeId>& roots_;
  const std::vector<bool>& varying_;
  std::unordered_map<NodeId, int> materialized_;
  Program program_;
  std::vector<bool> needed_, varies_, fused_;
  std::vector<int> into_;  ///< which argument is fused into an operation, or -1
  std::unordered_map<NodeId, Polynomial> polynomials_;
  std::vector<int> uses_before_;  ///< of each expression in the tree
  std::vector<int> uses_;         ///< of each result by instructions still to come
  std::vector<Operand> places_;
  std::vector<uint16_t> free_;
};

}  // namespace

Program compile(const Tree& tree, const std::vector<NodeId>& roots,
                const std::vector<bool>& varying,
                const std::vector<std::pair<NodeId, int>>& materialized) {
  return Compiler(tree, roots, varying, materialized).run();
}

}  // namespace zmlx::kernel
