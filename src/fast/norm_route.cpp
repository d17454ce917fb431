#include "cuda/host/memory.h"
#include "fast/cuda_path.h"
#include "fast/dense_row.h"
#include "fast/moe_route_cuda.h"
#include "fast/step_primitive.h"
#include "zmlx/explain.h"

namespace zmlx::fast {

namespace {

/// Inputs: x, residual, norm weight, router (three), [select_bias].
/// Outputs: normed, sum, indices, weights.
class NormRoute : public StepPrimitive {
 public:
  struct Options {
    RowProduct product;
    MoeRoute::Options route;
    RouteCall call;
  };
  NormRoute(mx::Stream s, KeptInputs kept, Options options)
      : StepPrimitive(s, std::move(kept)), options_(std::move(options)) {}

  void eval_gpu(const std::vector<mx::array>& inputs, std::vector<mx::array>& outputs) override;
  const char* name() const override { return "norm_route"; }

 private:
  CudaKernel describe(bool copied) const;

  Options options_;
};

constexpr int kThreads = 128, kRowsPerBlock = kThreads / 16, kRing = 8;
/// See NormRoute in src/cuda.
int shared_memory(const RowProduct& product, int experts) {
  return product.shared_memory(kThreads, 1, kRing) + (experts + 7) / 8 * 8 * 2;
}

std::string obstacle(const mx::array& x, const AddNorm& norm, const Linear& router,
                     const std::optional<mx::array>& bias, const MoeRoute::Options& route,
                     const mx::Stream& s) {
  if (auto reason = row_obstacle(x, router, s); !reason.empty()) return reason;
  if (auto reason = row_obstacle(x, norm); !reason.empty()) return reason;
  const int experts = router.weight.shape(0);
  if (route.k < 1 || route.k > experts) return "more experts a token than there are";
  if (bias && (bias->is_tracer() || bias->shape() != mx::Shape{experts})) return "the bias";
  for (auto type : {bias ? bias->dtype() : x.dtype(), route.score_type, route.weights_type}) {
    if (!kernel_float(type)) return "a type other than float32, float16 and bfloat16";
  }
  if (route.drops_groups()) return "groups of experts";
  const int capability = cuda_compute_capability(s.device.index);
  const RowProduct product{
      {router.mode, router.group_size, router.bits}, x.dtype(), x.shape(-1), {}};
  if (shared_memory(product, experts) > cuda_shared_limit(capability)) {
    return "rows too long for shared memory";
  }
  return cuda_route_obstacle({experts, route.k, 1, capability});
}

CudaKernel NormRoute::describe(bool copied) const {
  const auto& o = options_;
  const int experts = o.call.experts;
  Config config, route;
  o.product.add_to(config, kThreads, kRing);
  add_route(route, o.route, o.call);
  auto names = o.product.input_names();
  append_layer_names("router", names);
  if (o.route.has_bias) names.push_back("select_bias");
  return {"norm_route.cuh",
          config.text() + route.text("RouteConfig"),
          "zmlx::NormRoute<zmlx::Config, zmlx::RouteConfig>::run(" + o.product.input_text() + ", " +
              layer_text("router") + ", " + (o.route.has_bias ? "select_bias" : "nullptr") +
              ", normed, sum, indices, weights, scratch);",
          names,
          {"normed", "sum", "indices", "weights", "scratch"},
          {},
          {(experts + kRowsPerBlock - 1) / kRowsPerBlock, 1, 1},
          kThreads,
          1,
          shared_memory(o.product, experts),
          copied};
}

void NormRoute::eval_gpu(const std::vector<mx::array>& given, std::vector<mx::array>& outputs) {
  const auto inputs = all_inputs(given);
  const bool copied = needs_copies(inputs);
  KeyBuilder key;
  key.add(Operation::norm_route, stream().index, copied);
  options_.product.add_to(key);
  add_route(key, options_.route, options_.call);
  auto written = outputs;
  written.push_back(cuda::scratch(stream()));
  launch(key.key(), inputs, written, [&] { return describe(copied); });
}

}  // namespace

std::optional<NormRouteResult> norm_route(const mx::array& x, const AddNorm& norm,
                                          const Linear& router,
                                          const std::optional<mx::array>& select_bias,
                                          const RouteOptions& route, mx::StreamOrDevice s_) {
  const auto s = mx::to_stream(s_);
  auto options = resolve_route(route, x.dtype(), select_bias.has_value(), "");
  const auto reason = obstacle(x, norm, router, select_bias, options, s);
  detail::note_path({"norm_route", reason.empty() ? "cuda" : "fallback", reason});
  if (!reason.empty()) return std::nullopt;
  std::vector<mx::array> inputs{x, norm.residual, norm.weight};
  inputs.reserve(8);
  append_layer(router, inputs);
  if (select_bias) inputs.push_back(*select_bias);
  auto kept = KeptInputs::take(inputs, 1, inputs.size());
  const mx::Shape shape{1, 1, options.k};
  const std::vector<mx::Dtype> types{x.dtype(), x.dtype(), mx::uint32, options.weights_type};
  NormRoute::Options all{
      {{router.mode, router.group_size, router.bits}, x.dtype(), x.shape(-1), norm.eps},
      std::move(options),
      {x.dtype(), select_bias ? select_bias->dtype() : mx::float32, router.weight.shape(0),
       x.ndim()}};
  auto out = mx::array::make_arrays({x.shape(), x.shape(), shape, shape}, types,
                                    std::make_shared<NormRoute>(s, std::move(kept), std::move(all)),
                                    inputs);
  return NormRouteResult{out[2], out[3], out[0], out[1]};
}

}  // namespace zmlx::fast
