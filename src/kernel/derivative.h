#pragma once

#include <vector>

#include "kernel/expression.h"

namespace zmlx::kernel {

/// Derivatives of `roots` along a direction: the variables change at the rates that `rates` has
/// for them (an expression each, -1 for those that do not change). The result holds, for each root,
/// an expression in `tree`, or -1 where the derivative is zero everywhere.
///
/// Forward mode, so that a branch of `select` that is not taken never spoils the result: in reverse
/// mode its rate would be multiplied by zero, and zero times infinity is NaN.
///
/// Where there is no derivative MLX's convention holds: `max(a, b)` follows a where a > b, else b;
/// `min(a, b)` follows a where a < b, else b; `abs` and `sign` have 0 at 0; rounding to integers
/// and what is not float32 have none. Rounding to 16 bits is taken for the identity.
std::vector<NodeId> derivatives(Tree& tree, const std::vector<NodeId>& roots,
                                const std::vector<NodeId>& rates);

/// The derivative of one root by one variable; a constant 0 if it does not depend on it.
NodeId derivative(Tree& tree, NodeId root, int variable);

/// a + b and a * b, where -1 stands for zero.
NodeId add_terms(Tree& tree, NodeId a, NodeId b);
NodeId multiply_terms(Tree& tree, NodeId a, NodeId b);

}  // namespace zmlx::kernel
