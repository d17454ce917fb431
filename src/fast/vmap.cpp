#include "fast/vmap.h"

#include <algorithm>
#include <stdexcept>
#include <string>

#include "mlx/ops.h"

namespace zmlx::fast {

void reject_mapped_weights(const char* op, int axis) {
  if (axis >= 0) {
    throw std::invalid_argument("[" + std::string(op) +
                                "] vmap over the expert weights is not supported, as gather_qmm "
                                "does not support it; map x, indices or weights instead.");
  }
}

mx::array fold_axis(const mx::array& a, int axis, int ndim, mx::StreamOrDevice s) {
  if (axis < 0) return a;
  auto moved = mx::moveaxis(a, axis, 0, s);
  auto shape = moved.shape();
  shape.insert(shape.begin() + 1, ndim + 1 - static_cast<int>(shape.size()), 1);
  return mx::reshape(moved, shape, s);
}

void fold_rows(mx::array& x, int x_axis, mx::array& lhs, int lhs_axis, mx::array& rhs, int rhs_axis,
               mx::StreamOrDevice s) {
  int ndim = std::max(static_cast<int>(lhs.ndim()) - (lhs_axis >= 0),
                      static_cast<int>(rhs.ndim()) - (rhs_axis >= 0));
  lhs = fold_axis(lhs, lhs_axis, ndim, s);
  rhs = fold_axis(rhs, rhs_axis, ndim, s);
  if (x_axis < 0) return;
  x = mx::moveaxis(x, x_axis, 0, s);
  int rows = 1;
  for (size_t i = 1; i + 2 < x.ndim(); ++i) rows *= x.shape(i);
  mx::Shape shape(ndim + 1, 1);
  shape[0] = x.shape(0);
  auto offset = mx::reshape(mx::arange(0, x.shape(0) * rows, rows, s), shape, s);
  lhs = mx::astype(mx::add(lhs, mx::astype(offset, mx::uint32, s), s), mx::uint32, s);
}

}  // namespace zmlx::fast
