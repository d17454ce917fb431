#include "fast/cuda_path.h"
#include "fast/dense_row.h"
#include "fast/step_primitive.h"
#include "zmlx/explain.h"

namespace zmlx::fast {

namespace {

constexpr int kThreads = 128, kRows = 3;

/// Inputs: x, [residual, norm weight], in_proj (three), state, taps. Outputs: y, state, [sum].
class ShortConv : public StepPrimitive {
 public:
  struct Options {
    RowProduct product;
    int channels, taps;
  };
  ShortConv(mx::Stream s, KeptInputs kept, Options options)
      : StepPrimitive(s, std::move(kept)), options_(std::move(options)) {}

  void eval_gpu(const std::vector<mx::array>& inputs, std::vector<mx::array>& outputs) override;
  const char* name() const override { return "short_conv"; }

 private:
  CudaKernel describe(bool copied) const;

  Options options_;
};

std::string obstacle(const mx::array& x, const std::optional<AddNorm>& norm, const Linear& in_proj,
                     const mx::array& taps, const mx::array& state, const mx::Stream& s) {
  if (auto reason = row_obstacle(x, in_proj, s); !reason.empty()) return reason;
  if (norm) {
    if (auto reason = row_obstacle(x, *norm); !reason.empty()) return reason;
  }
  if (state.is_tracer() || taps.is_tracer()) return "a state or taps that are traced";
  if (state.dtype() != x.dtype() || taps.dtype() != x.dtype()) {
    return "arrays of several types";
  }
  if (taps.ndim() != 3 || taps.shape(2) != 1 || taps.shape(1) < 2 || taps.shape(1) > 8 ||
      state.shape() != mx::Shape{1, taps.shape(1) - 1, taps.shape(0)} ||
      in_proj.weight.shape(0) != 3 * taps.shape(0)) {
    return "shapes other than those of a depthwise convolution";
  }
  const RowProduct product{
      {in_proj.mode, in_proj.group_size, in_proj.bits}, x.dtype(), x.shape(-1), {}};
  if (product.shared_memory(kThreads, kRows) > cuda_shared_limit(cuda_compute_capability())) {
    return "rows too long for shared memory";
  }
  return "";
}

CudaKernel ShortConv::describe(bool copied) const {
  const auto& o = options_;
  Config config;
  o.product.add_to(config, kThreads);
  config.number("kChannels", o.channels);
  config.number("kTaps", o.taps);
  auto names = o.product.input_names();
  append_layer_names("in", names);
  names.insert(names.end(), {"state", "taps"});
  std::vector<std::string> results{"y", "next_state"};
  if (o.product.norm_eps) results.push_back("sum");
  constexpr int kChannelsPerBlock = kThreads / 16;
  return {"short_conv.cuh",
          config.text(),
          "zmlx::ShortConv<zmlx::Config>::run(" + o.product.input_text() + ", " + layer_text("in") +
              ", state, taps, y, next_state, " + (o.product.norm_eps ? "sum" : "nullptr") + ");",
          names,
          results,
          {},
          {(o.channels + kChannelsPerBlock - 1) / kChannelsPerBlock, 1, 1},
          kThreads,
          1,
          o.product.shared_memory(kThreads, kRows),
          copied};
}

void ShortConv::eval_gpu(const std::vector<mx::array>& given, std::vector<mx::array>& outputs) {
  const auto inputs = all_inputs(given);
  const bool copied = needs_copies(inputs);
  KeyBuilder key;
  key.add(Operation::short_conv, stream().index, copied, options_.channels, options_.taps);
  options_.product.add_to(key);
  launch(key.key(), inputs, outputs, [&] { return describe(copied); });
}

}  // namespace

std::optional<ShortConvResult> short_conv(const mx::array& x, const std::optional<AddNorm>& norm,
                                          const Linear& in_proj, const mx::array& taps,
                                          const mx::array& state, mx::StreamOrDevice s_) {
  const auto s = mx::to_stream(s_);
  const auto reason = obstacle(x, norm, in_proj, taps, state, s);
  detail::note_path({"short_conv", reason.empty() ? "cuda" : "fallback", reason});
  if (!reason.empty()) return std::nullopt;
  const int channels = taps.shape(0);
  ShortConv::Options options{
      {{in_proj.mode, in_proj.group_size, in_proj.bits}, x.dtype(), x.shape(-1), {}},
      channels,
      taps.shape(1)};
  std::vector<mx::array> inputs{x};
  inputs.reserve(8);
  if (norm) {
    inputs.insert(inputs.end(), {norm->residual, norm->weight});
    options.product.norm_eps = norm->eps;
  }
  append_layer(in_proj, inputs);
  inputs.insert(inputs.end(), {state, taps});
  auto kept = KeptInputs::take(inputs, 1, inputs.size());
  std::vector<mx::Shape> shapes{{1, 1, channels}, state.shape()};
  if (norm) shapes.push_back(x.shape());
  auto out = mx::array::make_arrays(
      shapes, std::vector<mx::Dtype>(shapes.size(), x.dtype()),
      std::make_shared<ShortConv>(s, std::move(kept), std::move(options)), inputs);
  return ShortConvResult{out[0], out[1], norm ? std::optional(out[2]) : std::nullopt};
}

}  // namespace zmlx::fast
