#pragma once

#include "mlx/array.h"
#include "mlx/utils.h"

/// How vmap folds a mapped axis into leading axes that broadcast.
namespace zmlx::fast {

namespace mx = mlx::core;

/// @throws std::invalid_argument if expert tables are mapped (`axis` >= 0): `gather_qmm` has no
///         notion of a table per element either.
void reject_mapped_weights(const char* op, int axis);

/// `a` with its mapped axis (none if -1) in front of `ndim` axes, which ones are inserted to reach;
/// unmapped arrays broadcast and are returned as they are.
mx::array fold_axis(const mx::array& a, int axis, int ndim, mx::StreamOrDevice s);

/// Folds mapped x (..., 1, D), lhs_indices and rhs_indices, each with its mapped axis or -1, into
/// unmapped ones. Explicit lhs_indices count rows of one element's x, so they are offset.
void fold_rows(mx::array& x, int x_axis, mx::array& lhs, int lhs_axis, mx::array& rhs, int rhs_axis,
               mx::StreamOrDevice s);

}  // namespace zmlx::fast
