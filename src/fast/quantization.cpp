#include "fast/quantization.h"

#include "fast/backend.h"
#include "fast/cuda_path.h"
#include "fast/metal_path.h"

#include <limits>
#include <sstream>
#include <stdexcept>

#include "mlx/ops.h"

namespace zmlx::fast {

namespace {

template <typename... Parts>
[[noreturn]] void fail(const char* op, const Parts&... parts) {
  std::ostringstream message;
  message << "[" << op << "] ";
  (message << ... << parts);
  throw std::invalid_argument(message.str());
}

void check_scales(const char* op, const QuantizedWeights& weights, const char* what,
                  const mx::array& a, const Quantization& q) {
  auto expected = weights.w.shape();
  expected.back() = weights.w.shape(-1) * 32 / q.bits / q.group_size;
  if (a.shape() != expected) {
    fail(op, weights.name, what, " must have shape ", expected, " to go with ", weights.name,
         "w of shape ", weights.w.shape(), " at ", q.bits, " bits and group_size ", q.group_size,
         ", but has shape ", a.shape(), ".");
  }
}

}  // namespace

Quantization resolve_quantization(const char* op, const std::string& mode,
                                  std::optional<int> group_size, std::optional<int> bits) {
  struct Defaults {
    const char* mode;
    int group_size, bits;
  };
  constexpr Defaults kDefaults[] = {
      {"affine", 64, 4}, {"mxfp4", 32, 4}, {"mxfp8", 32, 8}, {"nvfp4", 16, 4}};
  for (const auto& d : kDefaults) {
    if (mode != d.mode) continue;
    Quantization q{mode, group_size.value_or(d.group_size), bits.value_or(d.bits)};
    if (!q.affine()) {
      if (q.group_size != d.group_size || q.bits != d.bits) {
        fail(op, "mode '", mode, "' has group_size ", d.group_size, " and ", d.bits,
             " bits, but group_size is ", q.group_size, " and bits is ", q.bits, ".");
      }
      return q;
    }
    if (q.group_size != 32 && q.group_size != 64 && q.group_size != 128) {
      fail(op, "group_size must be 32, 64 or 128 in mode 'affine', but is ", q.group_size, ".");
    }
    if (q.bits < 1 || q.bits > 8 || q.bits == 7) {
      fail(op, "bits must be 1, 2, 3, 4, 5, 6 or 8 in mode 'affine', but is ", q.bits, ".");
    }
    return q;
  }
  fail(op, "mode must be 'affine', 'mxfp4', 'mxfp8' or 'nvfp4', but is '", mode, "'.");
}

int check_weights(const char* op, const mx::array& x, const QuantizedWeights& weights,
                  const Quantization& q, bool transpose) {
  const auto& [name, w, scales, biases, bias] = weights;
  if (!mx::issubdtype(x.dtype(), mx::floating)) {
    fail(op, "x must be a float array, but has type ", x.dtype(), ".");
  }
  if (w.dtype() != mx::uint32) fail(op, name, "w must be uint32, but is ", w.dtype(), ".");
  if (w.ndim() < 2) fail(op, name, "w must have at least 2 axes, but has shape ", w.shape(), ".");
  check_scales(op, weights, "scales", scales, q);
  if (q.affine()) {
    if (!biases) fail(op, name, "biases must be given in mode 'affine'.");
    check_scales(op, weights, "biases", *biases, q);
    if (!mx::issubdtype(scales.dtype(), mx::floating) ||
        !mx::issubdtype(biases->dtype(), mx::floating)) {
      fail(op, name, "scales and ", name, "biases must be float arrays in mode 'affine', but are ",
           scales.dtype(), " and ", biases->dtype(), ".");
    }
  } else {
    if (biases) fail(op, name, "biases must not be given in mode '", q.mode, "'.");
    if (scales.dtype() != mx::uint8) {
      fail(op, name, "scales must be uint8 in mode '", q.mode, "', but are ", scales.dtype(), ".");
    }
  }
  int inner = w.shape(-1) * 32 / q.bits;
  int outer = w.shape(-2);
  if (!transpose) std::swap(inner, outer);
  if (x.shape(-1) != inner) {
    fail(op, "the last axis of x with shape ", x.shape(), " must have size ", inner, " to go with ",
         name, "w of shape ", w.shape(), " at ", q.bits, " bits",
         transpose ? "." : " and transpose=False.");
  }
  if (bias && (bias->ndim() != 2 || w.ndim() != 3 || bias->shape(0) != w.shape(0) ||
               bias->shape(1) != outer || !mx::issubdtype(bias->dtype(), mx::floating))) {
    fail(op, name, "bias must be a float array of shape (", w.ndim() == 3 ? w.shape(0) : 1, ", ",
         outer, "), but is ", bias->dtype(), " of shape ", bias->shape(), ".");
  }
  return outer;
}

void check_indices(const char* op, const char* name, const std::optional<mx::array>& indices) {
  if (indices && !mx::issubdtype(indices->dtype(), mx::integer)) {
    fail(op, name, " must be integers, but have type ", indices->dtype(), ".");
  }
}

mx::Dtype product_type(const mx::array& x, const QuantizedWeights& weights, const Quantization& q) {
  auto type = x.dtype();
  if (q.affine()) {
    type = mx::promote_types(type, mx::result_type(weights.scales, *weights.biases));
  }
  return weights.bias ? mx::promote_types(type, weights.bias->dtype()) : type;
}

bool kernel_float(mx::Dtype type) {
  return type == mx::float32 || type == mx::float16 || type == mx::bfloat16;
}

std::string stack_obstacle(const mx::array& x, const QuantizedWeights& weights,
                           const Quantization& q, bool transpose,
                           bool (*readable)(const mx::array&)) {
  if (!transpose) return "transpose=False";
  if (weights.w.ndim() != 3) return "the weights are not a stack of experts (E, N, K)";
  if (!kernel_float(x.dtype())) return "the type of x";
  if (q.affine() && (weights.scales.dtype() != x.dtype() || weights.biases->dtype() != x.dtype())) {
    return "scales and biases of another type than x";
  }
  if (weights.bias && weights.bias->dtype() != x.dtype()) return "a bias of another type than x";
  // Arrays that are not evaluated yet are taken to be what they nearly always are; if not, they are
  // copied when it comes to that.
  auto strided = [&](const mx::array& a) { return a.is_available() && !readable(a); };
  if (strided(weights.w) || strided(weights.scales) || (q.affine() && strided(*weights.biases))) {
    return "weights that are not contiguous";
  }
  return "";
}

std::string kernel_obstacle(const mx::Stream& s, const mx::array& x,
                            const QuantizedWeights& weights, const Quantization& q,
                            bool transpose) {
  const auto backend = backend_of(s);
  if (backend == Backend::cuda) return cuda_obstacle(s, x, weights, q, transpose);
  if (backend == Backend::metal) {
    const auto obstacle = metal_device_obstacle(s);
    return obstacle.empty() ? metal_obstacle(x, weights, q, transpose) : obstacle;
  }
  if (!transpose) return "transpose=False";
  if (weights.w.ndim() != 3) return "the weights are not a stack of experts (E, N, K)";
  if (!kernel_float(x.dtype())) return "the type of x";
  if (q.affine() && (!kernel_float(weights.scales.dtype()) ||
                     weights.scales.dtype() != weights.biases->dtype())) {
    return "the types of scales and biases";
  }
  if (weights.bias && !kernel_float(weights.bias->dtype())) return "the type of the bias";
  return "";
}

mx::array indices_or_default(const std::optional<mx::array>& indices, const mx::array& a,
                             mx::StreamOrDevice s) {
  if (indices) return mx::astype(*indices, mx::uint32, s);
  mx::Shape batch(a.shape().begin(), a.shape().end() - 2);
  int size = 1;
  for (auto n : batch) size *= n;
  return mx::reshape(mx::arange(0, size, 1, mx::uint32, s), batch, s);
}

mx::array gather_product(const mx::array& x, const mx::array& w, const mx::array& scales,
                         const std::optional<mx::array>& biases,
                         const std::optional<mx::array>& bias, const mx::array& lhs_indices,
                         const mx::array& rhs_indices, const Quantization& q, bool transpose,
                         bool sorted_indices, mx::StreamOrDevice s) {
  // Stacks of more than three axes are flattened by MLX as well: indices count over all of them.
  int num_experts = 1;
  for (int i = 0; i < static_cast<int>(w.ndim()) - 2; ++i) num_experts *= w.shape(i);
  auto expert =
      mx::minimum(rhs_indices, mx::array(static_cast<uint32_t>(num_experts - 1), mx::uint32), s);
  auto y = mx::gather_qmm(x, w, scales, biases, lhs_indices, expert, transpose, q.group_size,
                          q.bits, q.mode, std::nullopt, sorted_indices, s);
  if (bias) y = mx::add(y, mx::expand_dims(mx::take(*bias, expert, 0, s), -2, s), s);
  return y;
}

mx::array nan_where_out_of_range(const mx::array& y, const mx::array& rhs_indices, int num_experts,
                                 mx::StreamOrDevice s) {
  auto bad =
      mx::greater_equal(rhs_indices, mx::array(static_cast<uint32_t>(num_experts), mx::uint32), s);
  auto nan = mx::array(std::numeric_limits<float>::quiet_NaN(), y.dtype());
  return mx::where(mx::expand_dims(bad, {-2, -1}, s), nan, y, s);
}

}  // namespace zmlx::fast
