#include <sstream>
#include <stdexcept>

#include "fast/cuda_path.h"
#include "fast/inputs.h"
#include "fast/metal_path.h"
#include "fast/numerics.h"
#include "fast/primitives.h"
#include "mlx/ops.h"
#include "zmlx/explain.h"
#include "zmlx/fast.h"

namespace zmlx::fast {

namespace {

constexpr const char* kOp = "moe_route";

template <typename... Parts>
[[noreturn]] void fail(const Parts&... parts) {
  std::ostringstream msg;
  msg << "[moe_route] ";
  (msg << ... << parts);
  throw std::invalid_argument(msg.str());
}

RouteScore parse_score(const std::string& score) {
  if (score == "softmax") return RouteScore::softmax;
  if (score == "sigmoid") return RouteScore::sigmoid;
  if (score == "topk_softmax") return RouteScore::topk_softmax;
  fail("score must be 'softmax', 'sigmoid' or 'topk_softmax', but is '", score, "'.");
}

/// Whether `value` is the second of two names.
bool parse_second(const char* name, const std::string& value, const char* first,
                  const char* second) {
  if (value == second) return true;
  if (value == first) return false;
  fail(name, " must be '", first, "' or '", second, "', but is '", value, "'.");
}

void check_float(const char* name, const std::optional<mx::Dtype>& type) {
  if (type && !mx::issubdtype(*type, mx::floating)) {
    fail(name, " must be a float type, but is ", *type, ".");
  }
}

void check_arrays(const mx::array& logits, int k, const std::optional<mx::array>& select_bias) {
  if (logits.ndim() == 0) fail("logits must have at least one axis.");
  if (!mx::issubdtype(logits.dtype(), mx::floating)) {
    fail("logits must be a float array, but have type ", logits.dtype(), ".");
  }
  const int experts = logits.shape(-1);
  if (k < 1 || k > experts) {
    fail("k must be between 1 and the number of experts, ", experts, " for logits of shape ",
         logits.shape(), ", but is ", k, ".");
  }
  if (!select_bias) return;
  if (select_bias->shape() != mx::Shape{experts}) {
    fail("select_bias must have shape (", experts, ",) to go with logits of shape ", logits.shape(),
         ", but has shape ", select_bias->shape(), ".");
  }
  check_float("the type of select_bias", select_bias->dtype());
}

void check_options(const MoeRoute::Options& o, int experts) {
  if (o.n_group < 1 || experts % o.n_group != 0) {
    fail("n_group must divide the number of experts, ", experts, ", but is ", o.n_group, ".");
  }
  if (o.topk_group < 1 || o.topk_group > o.n_group) {
    fail("topk_group must be between 1 and n_group, ", o.n_group, ", but is ", o.topk_group, ".");
  }
  if (o.drops_groups() && !o.group_max && experts / o.n_group < 2) {
    fail("groups need two experts for group_score 'top2', but n_group is ", o.n_group, " for ",
         experts, " experts.");
  }
  if (o.drops_groups() && o.group_max && o.has_bias) {
    fail("group_score 'max' takes no select_bias.");
  }
  if (!(o.eps >= 0)) fail("eps must not be negative, but is ", o.eps, ".");
}

mx::array slice_axis(const mx::array& a, int axis, int start, int stop, mx::StreamOrDevice s) {
  mx::Shape starts(a.ndim(), 0), stops = a.shape();
  starts[a.ndim() + axis] = start;
  stops[a.ndim() + axis] = stop;
  return mx::slice(a, std::move(starts), std::move(stops), s);
}

/// `selection` with `group_fill` for all experts outside the best topk_group groups.
mx::array fill_dropped_groups(const mx::array& selection, const MoeRoute::Options& o,
                              mx::StreamOrDevice s) {
  const int dropped = o.n_group - o.topk_group;
  auto groups = mx::unflatten(selection, -1, {o.n_group, -1}, s);
  auto best =
      o.group_max ? mx::max(groups, -1, true, s) : mx::sum(mx::topk(groups, 2, -1, s), -1, true, s);
  auto worst = slice_axis(mx::argpartition(best, dropped - 1, -2, s), -2, 0, dropped, s);
  auto fill = mx::array(o.group_fill, selection.dtype());
  groups = mx::put_along_axis(groups, mx::stop_gradient(worst, s), fill, -2, s);
  return mx::flatten(groups, -2, -1, s);
}

mx::array choose(const mx::array& selection, const MoeRoute::Options& o, mx::StreamOrDevice s) {
  const int experts = selection.shape(-1);
  auto indices =
      o.ascending
          ? slice_axis(mx::argpartition(selection, -o.k, -1, s), -1, experts - o.k, experts, s)
          : slice_axis(mx::argpartition(mx::negative(selection, s), o.k - 1, -1, s), -1, 0, o.k, s);
  return mx::stop_gradient(indices, s);
}

/// mlx-lm's sequence of ops. The bias may be any array that broadcasts with the logits.
std::vector<mx::array> compose(const std::vector<mx::array>& inputs, const MoeRoute::Options& o,
                               mx::StreamOrDevice s) {
  InputReader in(inputs);
  auto scores = mx::astype(in.next(), o.score_type, s);
  if (o.score == RouteScore::softmax) scores = mx::softmax(scores, -1, o.precise, s);
  if (o.score == RouteScore::sigmoid) scores = mx::sigmoid(scores, s);
  auto selection = o.has_bias ? mx::add(scores, in.next(), s) : scores;
  if (o.drops_groups()) {
    selection = fill_dropped_groups(selection, o, s);
    if (o.group_max) scores = selection;
  }
  auto indices = choose(selection, o, s);
  auto weights = mx::take_along_axis(scores, indices, -1, s);
  if (o.score == RouteScore::topk_softmax) weights = mx::softmax(weights, -1, o.precise, s);
  auto constant = [&](float value) { return mx::array(value, weights.dtype()); };
  if (o.renormalize) {
    auto sum = mx::sum(weights, -1, true, s);
    if (o.eps != 0) sum = mx::add(sum, constant(o.eps), s);
    weights = mx::divide(weights, sum, s);
  }
  if (o.scale != 1) weights = mx::multiply(weights, constant(o.scale), s);
  return {indices, mx::astype(weights, o.weights_type, s)};
}

std::string obstacle(const mx::Stream& s, const std::vector<mx::array>& inputs,
                     const MoeRoute::Options& o) {
  const bool metal = backend_of(s) == Backend::metal;
  auto reason = metal ? metal_device_obstacle(s) : cuda_device_obstacle(s);
  if (!reason.empty()) return reason;
  const auto& logits = inputs[0];
  bool has_float16 = false, has_bfloat16 = false;
  for (auto type : {logits.dtype(), inputs.back().dtype(), o.score_type, o.weights_type}) {
    if (!kernel_float(type)) return "a type other than float32, float16 and bfloat16";
    has_float16 |= type == mx::float16;
    has_bfloat16 |= type == mx::bfloat16;
  }
  const int experts = logits.shape(-1), groups = o.drops_groups() ? o.n_group : 1;
  const int rows = static_cast<int>(logits.size() / experts);
  if (rows > o.max_rows) return "more tokens than max_rows";
  if (metal) {
    return metal_route_obstacle({experts, o.k, groups, has_float16 && has_bfloat16});
  }
  return cuda_route_obstacle({experts, o.k, groups, cuda_compute_capability(s.device.index)});
}

mx::Shape result_shape(const mx::array& logits, int k) {
  auto shape = logits.shape();
  shape.back() = k;
  return shape;
}

std::vector<mx::array> build(std::vector<mx::array> inputs, const MoeRoute::Options& o,
                             const mx::Stream& s) {
  const auto shape = result_shape(inputs[0], o.k);
  const bool empty = inputs[0].size() == 0;
  const auto reason = empty ? "nothing to route" : obstacle(s, inputs, o);
  detail::note_path({kOp, reason.empty() ? name_of(backend_of(s)) : "fallback", reason});
  if (empty) return {mx::zeros(shape, mx::uint32, s), mx::zeros(shape, o.weights_type, s)};
  if (!reason.empty()) return compose(inputs, o, s);
  auto out = mx::array::make_arrays({shape, shape}, {mx::uint32, o.weights_type},
                                    std::make_shared<MoeRoute>(s, o), inputs);
  // What takes the indices cannot be differentiated by them.
  return {mx::stop_gradient(out[0], s), out[1]};
}

}  // namespace

MoeRoute::Options resolve_route(const RouteOptions& route, mx::Dtype logits, bool has_bias,
                                const std::string& numerics) {
  check_float("score_dtype", route.score_dtype);
  check_float("weights_dtype", route.weights_dtype);
  const auto score_type = route.score_dtype.value_or(logits);
  return {parse_score(route.score),
          route.k,
          route.n_group,
          route.topk_group,
          route.renormalize,
          route.scale,
          route.eps,
          parse_second("order", route.order, "descending", "ascending"),
          parse_second("group_score", route.group_score, "top2", "max"),
          route.group_fill,
          route.precise,
          has_bias,
          score_type,
          route.weights_dtype.value_or(score_type),
          resolve_numerics(kOp, numerics) == "exact",
          32};
}

std::pair<mx::array, mx::array> moe_route(const mx::array& logits, int k, const std::string& score,
                                          const std::optional<mx::array>& select_bias, int n_group,
                                          int topk_group, bool renormalize, float scale, float eps,
                                          const std::string& order, const std::string& group_score,
                                          float group_fill, bool precise,
                                          std::optional<mx::Dtype> score_dtype,
                                          std::optional<mx::Dtype> weights_dtype,
                                          const std::string& numerics, int max_rows,
                                          mx::StreamOrDevice s) {
  check_arrays(logits, k, select_bias);
  check_max_rows(kOp, max_rows);
  auto options = resolve_route({score, k, n_group, topk_group, renormalize, scale, eps, order,
                                group_score, group_fill, precise, score_dtype, weights_dtype},
                               logits.dtype(), select_bias.has_value(), numerics);
  options.max_rows = max_rows;
  check_options(options, logits.shape(-1));
  std::vector<mx::array> inputs{logits};
  if (select_bias) inputs.push_back(*select_bias);
  auto out = build(std::move(inputs), options, mx::to_stream(s));
  return {out[0], out[1]};
}

std::vector<mx::array> MoeRoute::fallback(const std::vector<mx::array>& inputs) const {
  return compose(inputs, options_, const_cast<MoeRoute*>(this)->stream());
}

std::vector<mx::Shape> MoeRoute::output_shapes(const std::vector<mx::array>& inputs) {
  return {2, result_shape(inputs[0], options_.k)};
}

void MoeRoute::eval_cpu(const std::vector<mx::array>&, std::vector<mx::array>&) {
  throw std::runtime_error("[moe_route] has no kernel for this device.");
}

/// Of the weights; MLX's vjp leaves out outputs whose gradient is stopped, as the indices' is.
std::vector<mx::array> MoeRoute::vjp(const std::vector<mx::array>& primals,
                                     const std::vector<mx::array>& cotangents,
                                     const std::vector<int>& argnums,
                                     const std::vector<mx::array>&) {
  std::vector<mx::array> wanted;
  for (int i : argnums) wanted.push_back(primals[i]);
  auto composed = [&](const std::vector<mx::array>& values) {
    auto inputs = primals;
    for (size_t i = 0; i < argnums.size(); ++i) inputs[argnums[i]] = values[i];
    return std::vector<mx::array>{fallback(inputs)[1]};
  };
  return mx::vjp(composed, wanted, {cotangents[1]}).second;
}

std::vector<mx::array> MoeRoute::jvp(const std::vector<mx::array>&, const std::vector<mx::array>&,
                                     const std::vector<int>&) {
  throw std::invalid_argument("[moe_route] has no forward-mode derivative (jvp).");
}

std::pair<std::vector<mx::array>, std::vector<int>> MoeRoute::vmap(
    const std::vector<mx::array>& inputs, const std::vector<int>& axes) {
  const auto& s = stream();
  auto folded = inputs;
  const bool bias_mapped = options_.has_bias && axes[1] >= 0;
  if (axes[0] >= 0) {
    folded[0] = mx::moveaxis(inputs[0], axes[0], 0, s);
  } else {
    auto shape = inputs[0].shape();
    shape.insert(shape.begin(), inputs[1].shape(axes[1]));
    folded[0] = mx::broadcast_to(inputs[0], shape, s);
  }
  if (!bias_mapped) return {build(folded, options_, s), {0, 0}};
  // The kernel has one bias for all rows.
  folded[1] = mx::moveaxis(inputs[1], axes[1], 0, s);
  mx::Shape shape(folded[0].ndim(), 1);
  shape.front() = folded[1].shape(0);
  shape.back() = folded[1].shape(1);
  folded[1] = mx::reshape(folded[1], shape, s);
  return {compose(folded, options_, s), {0, 0}};
}

}  // namespace zmlx::fast
