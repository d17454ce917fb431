#include <sstream>
#include <stdexcept>

#include "fast/cuda_path.h"
#include "fast/inputs.h"
#include "fast/metal_path.h"
#include "fast/primitives.h"
#include "mlx/fast.h"
#include "mlx/ops.h"
#include "zmlx/explain.h"
#include "zmlx/fast.h"

namespace zmlx::fast {

namespace {

void check(const char* op, const mx::array& x, const std::optional<mx::array>& weight) {
  std::ostringstream msg;
  msg << "[" << op << "] ";
  if (x.ndim() == 0) {
    msg << "x must have at least one axis.";
  } else if (!mx::issubdtype(x.dtype(), mx::floating)) {
    msg << "x must be a float array, but has type " << x.dtype() << ".";
  } else if (weight && (weight->ndim() != 1 || weight->shape(0) != x.shape(-1))) {
    msg << "weight must have shape (" << x.shape(-1) << ",) to go with x of shape " << x.shape()
        << ", but has shape " << weight->shape() << ".";
  } else if (weight && !mx::issubdtype(weight->dtype(), mx::floating)) {
    msg << "weight must be a float array, but has type " << weight->dtype() << ".";
  } else {
    return;
  }
  throw std::invalid_argument(msg.str());
}

std::vector<mx::array> compose(const std::vector<mx::array>& inputs,
                               const AddRmsNorm::Options& options, mx::StreamOrDevice s) {
  InputReader in(inputs);
  auto sum = in.next();
  if (options.has_residual) sum = mx::add(sum, in.next(), s);
  auto normed = mx::fast::rms_norm(sum, in.next_if(options.has_weight), options.eps, s);
  if (!options.has_residual) return {normed};
  return {normed, sum};
}

// Memory that the CUDA kernels write stays in a pool, which is for the arrays of decoding.
constexpr size_t kMaxCudaBytes = 1 << 20;

std::string cuda_call_obstacle(const mx::array& x) {
  if (x.nbytes() > kMaxCudaBytes) return "arrays beyond 1 MiB";
  if (x.shape(-1) * x.itemsize() % 16 != 0) return "rows that are no multiple of 16 bytes";
  return "";
}

std::string gpu_obstacle(const mx::Stream& s, Backend backend, bool has_residual,
                         const std::vector<mx::array>& inputs) {
  const bool metal = backend == Backend::metal;
  auto obstacle = metal ? metal_device_obstacle(s) : cuda_device_obstacle(s);
  if (!obstacle.empty()) return obstacle;
  if (!has_residual) return "MLX's own norm is one pass";
  for (const auto& a : inputs) {
    if (a.dtype() != inputs[0].dtype()) return "arrays of several types";
  }
  const auto& x = inputs[0];
  if (x.size() == 0) return "nothing to normalise";
  return metal ? metal_norm_obstacle(x.shape(-1)) : cuda_call_obstacle(x);
}

std::string obstacle(const char* op, const mx::Stream& s, bool has_residual,
                     const std::vector<mx::array>& inputs) {
  std::string reason;
  const auto backend = backend_of(s);
  for (const auto& a : inputs) {
    if (!kernel_float(a.dtype())) reason = "a type other than float32, float16 and bfloat16";
  }
  if (reason.empty() && backend != Backend::cpu) {
    reason = gpu_obstacle(s, backend, has_residual, inputs);
  }
  detail::note_path({op, reason.empty() ? name_of(backend) : "fallback", reason});
  return reason;
}

std::vector<mx::array> build(const char* op, const mx::array& x,
                             const std::optional<mx::array>& residual,
                             const std::optional<mx::array>& weight, float eps,
                             mx::StreamOrDevice s_) {
  auto s = mx::to_stream(s_);
  auto sum_type = residual ? mx::result_type(x, *residual) : x.dtype();
  auto normed_type = weight ? mx::promote_types(sum_type, weight->dtype()) : sum_type;
  AddRmsNorm::Options options{eps, residual.has_value(), weight.has_value(), sum_type, normed_type};
  std::vector<mx::array> inputs{x};
  if (residual) inputs.push_back(*residual);
  if (weight) inputs.push_back(*weight);
  if (!obstacle(op, s, options.has_residual, inputs).empty()) return compose(inputs, options, s);
  auto primitive = std::make_shared<AddRmsNorm>(s, options);
  if (!residual) return {mx::array(x.shape(), normed_type, primitive, std::move(inputs))};
  return mx::array::make_arrays({x.shape(), x.shape()}, {normed_type, sum_type}, primitive, inputs);
}

}  // namespace

std::pair<mx::array, mx::array> add_rms_norm(const mx::array& x, const mx::array& residual,
                                             const std::optional<mx::array>& weight, float eps,
                                             mx::StreamOrDevice s) {
  check("add_rms_norm", x, weight);
  if (residual.shape() != x.shape() || !mx::issubdtype(residual.dtype(), mx::floating)) {
    std::ostringstream msg;
    msg << "[add_rms_norm] residual must be a float array of x's shape " << x.shape() << ", but is "
        << residual.dtype() << " of shape " << residual.shape() << ".";
    throw std::invalid_argument(msg.str());
  }
  auto out = build("add_rms_norm", x, residual, weight, eps, s);
  return {out[0], out[1]};
}

mx::array rms_norm(const mx::array& x, const std::optional<mx::array>& weight, float eps,
                   mx::StreamOrDevice s) {
  check("rms_norm", x, weight);
  return build("rms_norm", x, std::nullopt, weight, eps, s)[0];
}

std::vector<mx::array> AddRmsNorm::fallback(const std::vector<mx::array>& inputs) const {
  return compose(inputs, options_, const_cast<AddRmsNorm*>(this)->stream());
}

std::vector<mx::Shape> AddRmsNorm::output_shapes(const std::vector<mx::array>& inputs) {
  return std::vector<mx::Shape>(options_.has_residual ? 2 : 1, inputs[0].shape());
}

std::vector<mx::array> AddRmsNorm::jvp(const std::vector<mx::array>& primals,
                                       const std::vector<mx::array>& tangents,
                                       const std::vector<int>& argnums) {
  std::vector<mx::array> all;
  for (size_t i = 0, j = 0; i < primals.size(); ++i) {
    bool given = j < argnums.size() && argnums[j] == static_cast<int>(i);
    all.push_back(given ? tangents[j++] : mx::zeros_like(primals[i], stream()));
  }
  auto composed = [this](const std::vector<mx::array>& inputs) { return fallback(inputs); };
  return mx::jvp(composed, primals, all).second;
}

std::pair<std::vector<mx::array>, std::vector<int>> AddRmsNorm::vmap(
    const std::vector<mx::array>& inputs, const std::vector<int>& axes) {
  const auto& s = stream();
  bool weight_mapped = options_.has_weight && axes.back() >= 0;
  size_t rows = inputs.size() - options_.has_weight;
  int size = 0;
  for (size_t i = 0; i < inputs.size(); ++i) {
    if (axes[i] >= 0) size = inputs[i].shape(axes[i]);
  }
  std::vector<mx::array> folded;
  for (size_t i = 0; i < rows; ++i) {
    auto shape = inputs[i].shape();
    shape.insert(shape.begin(), size);
    folded.push_back(axes[i] >= 0 ? mx::moveaxis(inputs[i], axes[i], 0, s)
                                  : mx::broadcast_to(inputs[i], shape, s));
  }
  // A weight per element is no longer one norm: normalise without it and multiply afterwards.
  auto residual = options_.has_residual ? std::optional(folded[1]) : std::nullopt;
  auto weight = options_.has_weight && !weight_mapped ? std::optional(inputs.back()) : std::nullopt;
  auto out = build(name(), folded[0], residual, weight, options_.eps, s);
  if (weight_mapped) {
    auto w = mx::moveaxis(inputs.back(), axes.back(), 0, s);
    mx::Shape shape(out[0].ndim(), 1);
    shape.front() = w.shape(0);
    shape.back() = w.shape(-1);
    out[0] = mx::multiply(mx::astype(out[0], options_.normed_type, s), mx::reshape(w, shape, s), s);
  }
  return {out, std::vector<int>(out.size(), 0)};
}

}  // namespace zmlx::fast
