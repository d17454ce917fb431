#include "kernel/derivative.h"

#include <algorithm>
#include <numbers>

namespace zmlx::kernel {

namespace {

constexpr NodeId kZero = -1;

/// Works on one node: `y` is the node, `a`, `b`, `c` its arguments, `da`, `db`, `dc` their rates.
class Rule {
 public:
  Rule(Tree& tree, NodeId y, const std::vector<NodeId>& rates) : t_(tree), y_(y), op_(tree[y].op) {
    const auto args = tree[y].args;  // a copy: the tree grows
    const auto rate = [&](NodeId id) { return id < 0 ? kZero : rates[id]; };
    a_ = args[0], b_ = args[1], c_ = args[2];
    da_ = rate(a_), db_ = rate(b_), dc_ = rate(c_);
  }

  NodeId apply() {
    switch (op_) {
      case Op::add:
        return sum(da_, db_);
      case Op::subtract:
        return sum(da_, negated(db_));
      case Op::multiply:
        return sum(times(da_, b_), times(db_, a_));
      case Op::divide:
        // The quotient is at hand: (da - y * db) / b.
        return quotient(sum(da_, negated(times(db_, y_))), b_);
      case Op::remainder:
        if (db_ == kZero) return da_;
        return sum(da_, negated(times(db_, t_.make(Op::trunc, t_.div(a_, b_)))));
      case Op::negate:
        return negated(da_);
      case Op::minimum:
      case Op::maximum:
        // Where the result is b; that also leaves out an argument that is NaN.
        return choose(t_.make(Op::equal, y_, b_), db_, da_);
      case Op::select:
        return choose(a_, db_, dc_);
      case Op::cast:
        return t_.type(a_) == Type::float32 ? da_ : kZero;
      case Op::to_float16:
      case Op::to_bfloat16:
        return da_;
      case Op::fused_multiply_add:
        return sum(sum(times(da_, b_), times(db_, a_)), dc_);
      case Op::power:
        return sum(times(da_, power_by_base()), times(db_, power_by_exponent()));
      case Op::atan2:
        return quotient(sum(times(da_, b_), negated(times(db_, a_))),
                        t_.add(t_.mul(a_, a_), t_.mul(b_, b_)));
      case Op::load_exponent:
        return da_ == kZero ? kZero : t_.make(Op::load_exponent, da_, b_);
      case Op::next_after:
        return da_;
      case Op::copy_sign:
        return times(da_, t_.mul(copy_sign_of_one(a_), copy_sign_of_one(b_)));
      default:
        return da_ == kZero ? kZero : times(da_, slope());
    }
  }

 private:
  NodeId number(double value) { return t_.constant(value); }
  NodeId sum(NodeId a, NodeId b) { return add_terms(t_, a, b); }
  NodeId times(NodeId a, NodeId b) { return multiply_terms(t_, a, b); }
  NodeId negated(NodeId a) { return a == kZero ? kZero : t_.make(Op::negate, a); }
  NodeId quotient(NodeId a, NodeId b) { return a == kZero ? kZero : t_.div(a, b); }
  NodeId some(NodeId a) { return a == kZero ? number(0) : a; }
  NodeId choose(NodeId condition, NodeId yes, NodeId no) {
    if (yes == kZero && no == kZero) return kZero;
    return t_.make(Op::select, condition, some(yes), some(no));
  }
  NodeId copy_sign_of_one(NodeId a) { return t_.make(Op::copy_sign, number(1), a); }
  NodeId one_minus_squared(NodeId a) {  // without cancellation near 1
    return t_.mul(t_.sub(number(1), a), t_.add(a, number(1)));
  }

  NodeId power_by_base() {
    if (da_ == kZero) return kZero;
    return t_.mul(t_.make(Op::power, a_, t_.sub(b_, number(1))), b_);
  }
  NodeId power_by_exponent() {
    if (db_ == kZero) return kZero;
    const NodeId zero_base = t_.make(Op::equal, a_, number(0));
    return t_.make(Op::select, zero_base, number(0), t_.mul(y_, t_.make(Op::log, a_)));
  }

  /// dy/da of functions of one argument.
  NodeId slope() {
    switch (op_) {
      case Op::absolute:
        return t_.make(Op::sign, a_);
      case Op::exp:
        return y_;
      case Op::exp2:
        return t_.mul(y_, number(std::numbers::ln2));
      case Op::expm1:
        return t_.make(Op::exp, a_);
      case Op::log:
        return t_.div(number(1), a_);
      case Op::log2:
        return t_.div(number(std::numbers::log2e), a_);
      case Op::log10:
        return t_.div(number(std::numbers::log10e), a_);
      case Op::log1p:
        return t_.div(number(1), t_.add(a_, number(1)));
      case Op::sqrt:
        return t_.div(number(0.5), y_);
      case Op::rsqrt:
        return t_.mul(number(-0.5), t_.div(y_, a_));
      case Op::cbrt:
        return t_.div(number(1.0 / 3), t_.mul(y_, y_));
      case Op::sin:
        return t_.make(Op::cos, a_);
      case Op::cos:
        return t_.make(Op::negate, t_.make(Op::sin, a_));
      case Op::tan:
        return t_.add(t_.mul(y_, y_), number(1));
      case Op::asin:
        return t_.make(Op::rsqrt, one_minus_squared(a_));
      case Op::acos:
        return t_.make(Op::negate, t_.make(Op::rsqrt, one_minus_squared(a_)));
      case Op::atan:
        return t_.div(number(1), t_.add(t_.mul(a_, a_), number(1)));
      case Op::sinh:
        return t_.make(Op::cosh, a_);
      case Op::cosh:
        return t_.make(Op::sinh, a_);
      case Op::tanh:
        return one_minus_squared(y_);
      case Op::asinh:
        return t_.make(Op::rsqrt, t_.add(t_.mul(a_, a_), number(1)));
      case Op::acosh:
        return t_.make(Op::rsqrt, t_.mul(t_.sub(a_, number(1)), t_.add(a_, number(1))));
      case Op::atanh:
        return t_.div(number(1), one_minus_squared(a_));
      case Op::erf:
      case Op::erfc: {
        const NodeId exponent = t_.make(Op::negate, t_.mul(a_, a_));
        const double factor = (op_ == Op::erf ? 2 : -2) * std::numbers::inv_sqrtpi;
        return t_.mul(t_.make(Op::exp, exponent), number(factor));
      }
      case Op::sigmoid:
        return t_.mul(y_, t_.sub(number(1), y_));
      case Op::softplus:
        return t_.make(Op::sigmoid, a_);
      default:
        return kZero;
    }
  }

  Tree& t_;
  NodeId y_;
  Op op_;
  NodeId a_, b_, c_, da_, db_, dc_;
};

}  // namespace

NodeId add_terms(Tree& tree, NodeId a, NodeId b) {
  if (a == kZero) return b;
  return b == kZero ? a : tree.add(a, b);
}

NodeId multiply_terms(Tree& tree, NodeId a, NodeId b) {
  if (a == kZero || b == kZero || tree.is_constant(a, 0) || tree.is_constant(b, 0)) return kZero;
  return tree.mul(a, b);
}

std::vector<NodeId> derivatives(Tree& tree, const std::vector<NodeId>& roots,
                                const std::vector<NodeId>& rates) {
  const auto needed = reachable(tree, roots);
  std::vector<NodeId> rate(needed.size(), kZero);
  for (NodeId id = 0; id < static_cast<NodeId>(needed.size()); ++id) {
    const Node node = tree[id];
    if (!needed[id] || node.type != Type::float32) continue;
    if (node.op == Op::variable) {
      rate[id] = rates.at(static_cast<size_t>(node.value));
    } else if (node.op != Op::constant) {
      rate[id] = Rule(tree, id, rate).apply();
    }
  }
  std::vector<NodeId> result;
  for (NodeId id : roots) result.push_back(rate[id]);
  return result;
}

NodeId derivative(Tree& tree, NodeId root, int variable) {
  int count = variable + 1;
  for (size_t id = 0; id < tree.size(); ++id) {
    const Node& node = tree[static_cast<NodeId>(id)];
    if (node.op == Op::variable) count = std::max(count, static_cast<int>(node.value) + 1);
  }
  std::vector<NodeId> rates(count, kZero);
  rates[variable] = tree.constant(1);
  const NodeId found = derivatives(tree, {root}, rates)[0];
  return found == kZero ? tree.constant(0) : found;
}

}  // namespace zmlx::kernel
