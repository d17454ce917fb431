#pragma once

#include "kernel/expression.h"

namespace zmlx::kernel {

/// The id of `node`'s simplest form. Folds constants, drops what does nothing, and replaces
/// formulas that overflow or cancel by stable operations: log(1 + exp(x)) by softplus,
/// a / (1 + exp(-x)) by a * sigmoid(x), exp(x) - 1 by expm1, log(1 + x) by log1p,
/// 1 - erf(x) by erfc.
///
/// Everything else keeps its rounding and what it does with NaN and infinities.
NodeId simplify(Tree& tree, const Node& node);

/// An operation on constants, computed in float64 and rounded to the type.
/// @param args  values of the arguments.
double fold(const Node& node, const std::array<double, 3>& args, Type argument_type);

}  // namespace zmlx::kernel
