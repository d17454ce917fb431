#pragma once

#include <optional>
#include <string>
#include <vector>

#include "kernel/expression.h"

/// Formulas of whole rows: passes that each reduce a row to one number, of the elements and of the
/// numbers before, and then outputs, one an element or one a row. Softmax is two passes and an
/// output an element; a norm is one pass and an output a row.
namespace zmlx::kernel {

/// result = init op f(element 0) op f(element 1) ..., with an associative op; or, where `op` is
/// absent, the result of `update` applied to one element after the other.
struct Pass {
  std::optional<Op> op;  ///< add, multiply, minimum, maximum, bit_and, bit_or, bit_xor
  NodeId element = -1;   ///< f, if there is an op
  NodeId update = -1;    ///< of the pass's accumulator, otherwise
  NodeId combine = -1;   ///< two partial results to one (of variables `left` and `right`), or -1
  double init = 0;
  Type type = Type::float32;
};

struct RowOutput {
  NodeId root;
  bool per_row;
};

/// Variables of the tree: the inputs, then for each pass its result, its accumulator, and two
/// partial results (`left`, `right`).
struct RowFormula {
  Tree tree;
  std::vector<std::string> names;  ///< of the inputs
  std::vector<Type> types;
  std::vector<bool> per_row;  ///< whether an input has one number a row
  std::vector<Pass> passes;
  std::vector<RowOutput> outputs;

  int result(size_t pass) const { return static_cast<int>(names.size() + 4 * pass); }
  int accumulator(size_t pass) const { return result(pass) + 1; }
  int left(size_t pass) const { return result(pass) + 2; }
  int right(size_t pass) const { return result(pass) + 3; }
  size_t variables() const { return names.size() + 4 * passes.size(); }
  /// Whether every pass has an op, so that rows can be split and differentiated.
  bool splits() const;
  std::vector<std::string> variable_names() const;
};

/// The number that changes nothing under an op.
double identity_of(Op op, Type type);

/// Finds op and f if `update` is "acc op f" and f does not depend on acc.
void split_update(const Tree& tree, int accumulator, Pass& pass);

/// The formula without passes that no output needs, of passes that all have an op.
RowFormula without_unused_passes(const RowFormula& formula);

/// The cotangents of some inputs as a formula: of the inputs, then a cotangent for each output.
/// Of ties in max and min each gets an equal share, as MLX's reductions have it.
/// @throws std::invalid_argument if a pass does not split.
RowFormula row_gradient(const RowFormula& formula, const std::vector<int>& by);

/// The tangents of the outputs: of the inputs, then a tangent for each of `by`.
RowFormula row_tangent(const RowFormula& formula, const std::vector<int>& by);

}  // namespace zmlx::kernel
