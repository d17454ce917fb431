// Derivatives of row formulas are row formulas: more passes, sums all of them.

#include <stdexcept>

#include "kernel/derivative.h"
#include "kernel/row_formula.h"

namespace zmlx::kernel {

namespace {

constexpr NodeId kZero = -1;

/// A formula that starts as a copy of another one with more inputs, and grows.
class Builder {
 public:
  Builder(const RowFormula& from, const std::vector<std::string>& names,
          const std::vector<bool>& per_row)
      : from_(from) {
    if (!from.splits()) {
      throw std::invalid_argument(
          "has no derivative: an update is not of the form \"acc + f\", with +, *, min or max and "
          "f "
          "free of acc.");
    }
    made.names = from.names;
    made.types = from.types;
    made.per_row = from.per_row;
    for (size_t i = 0; i < names.size(); ++i) {
      made.names.push_back(names[i]);
      made.types.push_back(Type::float32);
      made.per_row.push_back(per_row[i]);
    }
    copy_passes();
  }

  Tree& tree() { return made.tree; }
  NodeId input(size_t n) { return tree().variable(static_cast<int>(n), made.types[n]); }
  NodeId result(size_t pass) { return tree().variable(made.result(pass), made.passes[pass].type); }
  NodeId root(size_t output) const { return roots_[output]; }
  size_t passes_before() const { return from_.passes.size(); }

  /// The sum of `element` over the row.
  NodeId sum(NodeId element) {
    if (element == kZero) return kZero;
    for (size_t k = 0; k < made.passes.size(); ++k) {
      if (made.passes[k].op == Op::add && made.passes[k].element == element &&
          made.passes[k].init == 0) {
        return result(k);
      }
    }
    return reduced(Op::add, element);
  }

  NodeId reduced(Op op, NodeId element) {
    made.passes.push_back({op, element, -1, -1, identity_of(op, Type::float32), Type::float32});
    return result(made.passes.size() - 1);
  }

  /// The rates of the roots when one variable changes at the rate 1.
  std::vector<NodeId> by_variable(const std::vector<NodeId>& roots, int variable) {
    std::vector<NodeId> rates(made.variables(), kZero);
    rates[variable] = tree().constant(1);
    return derivatives(tree(), roots, rates);
  }

  /// How much of an element's rate a pass's result takes over.
  NodeId weight(size_t k) {
    const auto& pass = made.passes[k];
    const Op op = *pass.op;
    const NodeId element = pass.element, one = tree().constant(1), zero = tree().constant(0);
    if (op == Op::add) return one;
    if (op == Op::minimum || op == Op::maximum) {
      const NodeId reached = tree().make(Op::equal, element, result(k));
      const NodeId share = tree().make(Op::select, reached, one, zero);
      return tree().div(share, sum(share));
    }
    if (op != Op::multiply) return kZero;
    // The product of the others: of rows with a zero it is not the quotient.
    const NodeId is_zero = tree().make(Op::equal, element, zero);
    const NodeId zeros = sum(tree().make(Op::select, is_zero, one, zero));
    const NodeId rest = reduced(Op::multiply, tree().make(Op::select, is_zero, one, element));
    const NodeId no_zeros = tree().make(Op::equal, zeros, zero);
    const NodeId one_zero = tree().make(Op::equal, zeros, one);
    const NodeId init = tree().constant(made.passes[k].init);
    return tree().mul(
        init, tree().make(Op::select, is_zero, tree().make(Op::select, one_zero, rest, zero),
                          tree().make(Op::select, no_zeros, tree().div(rest, element), zero)));
  }

  RowFormula made;

 private:
  void copy_passes() {
    const size_t inputs = from_.names.size();
    std::vector<NodeId> variables(from_.variables());
    for (size_t n = 0; n < inputs; ++n) variables[n] = input(n);
    for (size_t k = 0; k < from_.passes.size(); ++k) {
      for (int i = 0; i < 4; ++i) {
        variables[inputs + 4 * k + i] = tree().variable(made.result(k) + i, from_.passes[k].type);
      }
    }
    std::vector<NodeId> roots;
    for (const auto& pass : from_.passes) roots.push_back(pass.element);
    for (const auto& output : from_.outputs) roots.push_back(output.root);
    const auto copied = copy(from_.tree, roots, tree(), variables);
    made.passes = from_.passes;
    for (size_t k = 0; k < made.passes.size(); ++k) {
      made.passes[k].element = copied[k];
      made.passes[k].update = made.passes[k].combine = -1;
    }
    roots_.assign(copied.begin() + static_cast<int64_t>(from_.passes.size()), copied.end());
  }

  const RowFormula& from_;
  std::vector<NodeId> roots_;
};

std::vector<std::string> numbered(const std::string& letter, size_t count) {
  std::vector<std::string> names;
  for (size_t i = 0; i < count; ++i) {
    names.push_back(letter + (count > 1 ? std::to_string(i + 1) : ""));
  }
  return names;
}

/// The reverse pass: the adjoint of each number of a row, from the last to the first.
class Reverse {
 public:
  Reverse(const RowFormula& formula, Builder& builder)
      : formula_(formula), b_(builder), adjoints_(formula.passes.size(), kZero) {
    for (size_t o = 0; o < formula.outputs.size(); ++o) {
      cotangents_.push_back(b_.input(formula.names.size() + o));
    }
    for (size_t k = formula.passes.size(); k-- > 0;) {
      adjoints_[k] = by_row_variable(formula.result(k), k + 1);
    }
  }

  /// What a variable that is one a row gets, from outputs and passes from `first` on.
  NodeId by_row_variable(int variable, size_t first) {
    const int at = moved(variable);
    NodeId per_element = kZero, per_row = kZero;
    for (size_t o = 0; o < cotangents_.size(); ++o) {
      const NodeId slope = b_.by_variable({b_.root(o)}, at)[0];
      auto& sum = formula_.outputs[o].per_row ? per_row : per_element;
      sum = add_terms(b_.tree(), sum, multiply_terms(b_.tree(), slope, cotangents_[o]));
    }
    NodeId total = add_terms(b_.tree(), per_row, b_.sum(per_element));
    for (size_t l = first; l < adjoints_.size(); ++l) {
      const NodeId slope = b_.by_variable({b_.made.passes[l].element}, at)[0];
      if (slope == kZero || adjoints_[l] == kZero) continue;
      const NodeId changed = b_.sum(multiply_terms(b_.tree(), slope, b_.weight(l)));
      total = add_terms(b_.tree(), total, multiply_terms(b_.tree(), changed, adjoints_[l]));
    }
    return total;
  }

  /// What an input that is one an element gets.
  NodeId by_element(int variable) {
    NodeId total = kZero;
    for (size_t o = 0; o < cotangents_.size(); ++o) {
      const NodeId slope = b_.by_variable({b_.root(o)}, variable)[0];
      total = add_terms(b_.tree(), total, multiply_terms(b_.tree(), slope, cotangents_[o]));
    }
    for (size_t k = 0; k < adjoints_.size(); ++k) {
      const NodeId slope = b_.by_variable({b_.made.passes[k].element}, variable)[0];
      if (slope == kZero || adjoints_[k] == kZero) continue;
      const NodeId change = multiply_terms(b_.tree(), slope, b_.weight(k));
      total = add_terms(b_.tree(), total, multiply_terms(b_.tree(), change, adjoints_[k]));
    }
    return total;
  }

 private:
  /// The number of a variable of the formula in the new one.
  int moved(int variable) const {
    const auto inputs = static_cast<int>(formula_.names.size());
    return variable < inputs ? variable
                             : variable + static_cast<int>(b_.made.names.size()) - inputs;
  }

  const RowFormula& formula_;
  Builder& b_;
  std::vector<NodeId> adjoints_, cotangents_;
};

}  // namespace

RowFormula row_gradient(const RowFormula& formula, const std::vector<int>& by) {
  std::vector<bool> per_row;
  for (const auto& output : formula.outputs) per_row.push_back(output.per_row);
  Builder builder(formula, numbered("g", formula.outputs.size()), per_row);
  Reverse reverse(formula, builder);
  std::vector<RowOutput> outputs;
  for (int i : by) {
    const bool row = formula.per_row[i];
    const NodeId found = row ? reverse.by_row_variable(i, 0) : reverse.by_element(i);
    outputs.push_back({found == kZero ? builder.tree().constant(0) : found, row});
  }
  builder.made.outputs = std::move(outputs);
  return without_unused_passes(builder.made);
}

RowFormula row_tangent(const RowFormula& formula, const std::vector<int>& by) {
  std::vector<bool> per_row;
  for (int i : by) per_row.push_back(formula.per_row[i]);
  Builder builder(formula, numbered("t", by.size()), per_row);
  auto& tree = builder.tree();
  const auto rates_now = [&](const std::vector<NodeId>& known) {
    std::vector<NodeId> rates(builder.made.variables(), kZero);
    for (size_t k = 0; k < by.size(); ++k) {
      rates[by[k]] = builder.input(formula.names.size() + k);
    }
    for (size_t k = 0; k < known.size(); ++k) rates[builder.made.result(k)] = known[k];
    return rates;
  };
  std::vector<NodeId> changes;
  for (size_t k = 0; k < formula.passes.size(); ++k) {
    const NodeId element = builder.made.passes[k].element;
    const NodeId rate = derivatives(tree, {element}, rates_now(changes))[0];
    changes.push_back(rate == kZero ? kZero
                                    : builder.sum(multiply_terms(tree, rate, builder.weight(k))));
  }
  std::vector<NodeId> roots;
  for (size_t o = 0; o < formula.outputs.size(); ++o) roots.push_back(builder.root(o));
  const auto rates = derivatives(tree, roots, rates_now(changes));
  for (size_t o = 0; o < rates.size(); ++o) {
    builder.made.outputs.push_back(
        {rates[o] == kZero ? tree.constant(0) : rates[o], formula.outputs[o].per_row});
  }
  return without_unused_passes(builder.made);
}

}  // namespace zmlx::kernel
