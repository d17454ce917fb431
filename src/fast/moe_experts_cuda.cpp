// All of a layer's experts as one CUDA kernel: arrays become its constants and launch.

#include <algorithm>
#include <cstdlib>
#include <utility>

#include "cuda/host/memory.h"
#include "fast/cuda_config.h"
#include "fast/expert_arrays.h"
#include "fast/moe_experts.h"
#include "fast/numerics.h"
#include "fast/primitives.h"
#include "fast/step_primitive.h"
#include "mlx/ops.h"
#include "mlx/utils.h"
#include "zmlx/explain.h"

namespace zmlx::fast {

namespace {

/// Inputs: x, gate, up and down (each w, scales, [biases], [bias]), indices, weights.
class MoeExpertsKernel : public StepPrimitive {
 public:
  struct Options {
    CudaCall up, down;
    ExpertsPlan plan;
    Activation activation;
    float alpha, limit;
    bool gate_bias, up_bias, down_bias;
    mx::Dtype type;  // of the result
  };
  MoeExpertsKernel(mx::Stream s, KeptInputs kept, Options options)
      : StepPrimitive(s, std::move(kept)), options_(std::move(options)) {}

  void eval_gpu(const std::vector<mx::array>& inputs, std::vector<mx::array>& outputs) override;
  const char* name() const override { return "moe_experts"; }

 private:
  struct Arrays;
  CudaKernel describe(const Arrays& arrays, bool copied) const;
  Config config_of(const CudaCall& call, const Arrays& arrays) const;
  mx::Dtype sum_type() const { return options_.up.exact ? options_.type : mx::float32; }

  Options options_;
};

struct MoeExpertsKernel::Arrays {
  InputReader in;
  const mx::array& x;
  ExpertArrays gate, up, down;
  const mx::array& indices;
  const mx::array& weights;
  PairStrides index_strides, weight_strides;

  Arrays(const std::vector<mx::array>& inputs, const Options& o)
      : in(inputs),
        x(in.next()),
        gate(in, o.up.quantization, o.gate_bias),
        up(in, o.up.quantization, o.up_bias),
        down(in, o.down.quantization, o.down_bias),
        indices(in.next()),
        weights(in.next()),
        index_strides(indices),
        weight_strides(weights) {}

  bool readable() const {
    return x.flags().row_contiguous && x.offset() % 16 == 0 && gate.readable(cuda_readable) &&
           up.readable(cuda_readable) && down.readable(cuda_readable) && index_strides.ok &&
           weight_strides.ok;
  }
};

/// Blocks of a launch, if the environment says so: 0 means no such launch. With fewer than there
/// are parts, some take several, which otherwise happens only beside other work.
std::optional<int> asked_blocks() {
  static const auto asked = []() -> std::optional<int> {
    const char* value = std::getenv("ZMLX_CUDA_EXPERT_BLOCKS");
    return value ? std::optional(std::max(0, std::atoi(value))) : std::nullopt;
  }();
  return asked;
}

Config MoeExpertsKernel::config_of(const CudaCall& call, const Arrays& arrays) const {
  const auto& o = options_;
  Config config;
  config.type("T", type_name(call.type));
  config.type("Intermediate", call.exact ? type_name(call.type) : "float");
  config.type("Weight", type_name(arrays.weights.dtype()));
  config.type("Sum", type_name(sum_type()));
  config.type("Out", type_name(o.type));
  config.number("kBits", call.quantization.bits);
  config.number("kGroup", call.quantization.group_size);
  config.number("K", call.K);
  config.number("N", call.N);
  config.number("E", call.experts);
  config.number("kTopK", call.top_k);
  config.number("kThreads", o.plan.threads);
  config.number("kRing", o.plan.ring);
  config.number("kParts", o.plan.parts);
  config.number("kMaxTokens", o.plan.max_tokens);
  config.number("kTokenRoom", o.plan.token_room);
  config.number("kMaxPairs", o.plan.max_pairs);
  config.number("kIndexTokenStride", arrays.index_strides.token);
  config.number("kIndexSlotStride", arrays.index_strides.slot);
  config.number("kWeightTokenStride", arrays.weight_strides.token);
  config.number("kWeightSlotStride", arrays.weight_strides.slot);
  config.flag("kExact", call.exact);
  config.flag("kFp", o.plan.product == CudaProduct::fp);
  config.flag("kClamped", o.activation == Activation::swiglu_clamped);
  config.real("kAlpha", o.alpha);
  config.real("kLimit", o.limit);
  return config;
}

CudaKernel MoeExpertsKernel::describe(const Arrays& arrays, bool copied) const {
  const auto& o = options_;
  const auto type = qualified(type_name(o.up.type));
  const bool mma = o.plan.product == CudaProduct::mma;
  std::vector<std::string> names{"x"};
  arrays.gate.add_names(names, "gate_");
  arrays.up.add_names(names, "up_");
  arrays.down.add_names(names, "down_");
  names.insert(names.end(), {"indices", "weights"});
  auto experts = [&](const ExpertArrays& projection, const char* prefix) {
    return experts_text(projection, prefix, type.c_str(), copied);
  };
  const std::string kernel = mma ? "MoeExpertsMma" : "MoeExpertsRows";
  return {mma ? "moe_experts_mma.cuh" : "moe_experts_rows.cuh",
          config_of(o.up, arrays).text("UpConfig") + config_of(o.down, arrays).text("DownConfig"),
          "zmlx::" + kernel + "<zmlx::UpConfig, zmlx::DownConfig>(x, " +
              experts(arrays.gate, "gate_") + ", " + experts(arrays.up, "up_") + ", " +
              experts(arrays.down, "down_") + ", indices, weights, reinterpret_cast<" + type +
              "*>(scratch + " + std::to_string(cuda::kScratchCounters) + "), scratch" +
              (mma ? ", tokens" : "") + ").run(out);",
          names,
          {"out", "scratch"},
          {{"tokens", o.up.tokens}},
          {asked_blocks().value_or(o.plan.parts), 1, 1},
          o.plan.threads,
          1,
          o.plan.shared_memory,
          copied};
}

void MoeExpertsKernel::eval_gpu(const std::vector<mx::array>& given,
                                std::vector<mx::array>& outputs) {
  const auto& o = options_;
  const auto inputs = all_inputs(given);
  Arrays arrays(inputs, o);
  const bool copied = !arrays.readable();
  if (copied) arrays.index_strides = arrays.weight_strides = PairStrides(o.up.top_k);
  KeyBuilder key;
  key.add(Operation::experts, stream().index, copied);
  const auto& q = o.up.quantization;
  const auto& down = o.down.quantization;
  key.add(type_code(o.up.type), type_code(o.type), type_code(arrays.weights.dtype()), q.bits,
          q.group_size, q.affine(), down.group_size, o.up.K, o.up.N, o.down.N, o.up.experts,
          o.up.tokens, o.up.top_k, o.up.exact, o.activation);
  key.add(o.alpha);
  key.add(o.limit);
  key.add(arrays.index_strides.token, arrays.index_strides.slot, arrays.weight_strides.token,
          arrays.weight_strides.slot);
  for (const auto* projection : {&arrays.gate, &arrays.up, &arrays.down}) {
    projection->add_to(key, copied);
  }
  const size_t hidden = static_cast<size_t>(o.up.pairs()) * o.up.N * mx::size_of(o.up.type);
  std::vector<mx::array> written{outputs[0], cuda::scratch(stream(), hidden)};
  launch(key.key(), inputs, written, [&] { return describe(arrays, copied); });
}

bool shape_fits(const mx::array& x, const MoeExperts& e, const mx::array& indices,
                const mx::array& weights, int max_rows) {
  if (x.is_tracer() || indices.is_tracer() || weights.is_tracer()) return false;
  if (x.ndim() < 2 || x.size() == 0 || indices.size() == 0) return false;
  if (indices.dtype() != mx::uint32 || !kernel_float(weights.dtype())) return false;
  if (weights.shape() != indices.shape() || indices.ndim() != x.ndim() ||
      !std::equal(x.shape().begin(), x.shape().end() - 1, indices.shape().begin())) {
    return false;
  }
  return static_cast<int>(x.size() / x.shape(-1)) <= max_rows &&
         e.gate.group_size == e.up.group_size && e.gate.bits == e.up.bits &&
         e.gate.mode == e.up.mode && e.gate.weight.shape() == e.up.weight.shape();
}

}  // namespace

std::optional<mx::array> one_kernel(const mx::array& x, const MoeExperts& e,
                                    const mx::array& indices, const mx::array& weights,
                                    int max_rows, const mx::Stream& s) {
  constexpr const char* kOp = "moe_experts";
  // Whoever calls then composes two kernels, which note their own paths.
  if (asked_blocks() == 0 || !shape_fits(x, e, indices, weights, max_rows)) return std::nullopt;
  const auto activation = parse_activation(e.activation);
  if (activation == Activation::geglu) return std::nullopt;
  const auto q = resolve_quantization(kOp, e.gate.mode, e.gate.group_size, e.gate.bits);
  const auto down_q = resolve_quantization(kOp, e.down.mode, e.down.group_size, e.down.bits);
  std::vector<mx::array> inputs{x};
  inputs.reserve(15);
  for (const auto& [layer, name, quantization] :
       {std::tuple{&e.gate, "gate_", &q}, {&e.up, "up_", &q}, {&e.down, "down_", &down_q}}) {
    const QuantizedWeights w{name, layer->weight, *layer->scales, layer->biases, layer->bias};
    if (!cuda_obstacle(s, x, w, *quantization, true).empty()) return std::nullopt;
    if (layer != &e.down) check_weights(kOp, x, w, *quantization, true);
    inputs.insert(inputs.end(), {w.w, w.scales});
    if (w.biases) inputs.push_back(*w.biases);
    if (w.bias) inputs.push_back(*w.bias);
  }
  if (std::ranges::any_of(inputs, [](const mx::array& a) { return a.is_tracer(); })) {
    return std::nullopt;
  }
  auto kept = KeptInputs::take(inputs, 1, inputs.size());
  inputs.insert(inputs.end(), {indices, weights});

  const bool exact = resolve_numerics(kOp, "") == "exact";
  const auto up = cuda_call(x, e.gate.weight, indices, q, exact);
  auto down = up;
  down.quantization = down_q, down.N = e.down.weight.shape(-2), down.K = up.N;
  if (e.down.weight.shape(0) != up.experts || down.N != x.shape(-1) ||
      static_cast<int64_t>(e.down.weight.shape(-1)) * 32 !=
          static_cast<int64_t>(down.K) * down_q.bits) {
    return std::nullopt;
  }
  const auto type = mx::promote_types(x.dtype(), weights.dtype());
  const auto sum_bytes = static_cast<int>(mx::size_of(exact ? type : mx::float32));
  // MLX adds up to 32 experts one after the other, in vectors of 16 bytes.
  if (exact && (down.top_k > 32 || down.N % (16 / sum_bytes) != 0)) return std::nullopt;
  auto plan = plan_experts(up, down, sum_bytes, cuda_processors(s.device.index));
  if (!plan.obstacle.empty()) return std::nullopt;
  detail::note_path({kOp, "cuda", ""});
  MoeExpertsKernel::Options options{up,
                                    down,
                                    std::move(plan),
                                    activation,
                                    e.alpha,
                                    e.limit,
                                    e.gate.bias.has_value(),
                                    e.up.bias.has_value(),
                                    e.down.bias.has_value(),
                                    type};
  auto y = mx::array(x.shape(), type,
                     std::make_shared<MoeExpertsKernel>(s, std::move(kept), std::move(options)),
                     std::move(inputs));
  return e.result_as_experts ? mx::astype(y, x.dtype(), s) : y;
}

}  // namespace zmlx::fast
