// Evaluation on Metal: arrays become a kernel's constants and launch. The kernels are in src/metal.

#include "fast/expert_arrays.h"
#include "fast/metal_call.h"
#include "fast/metal_config.h"
#include "fast/metal_path.h"

namespace zmlx::fast {

namespace {

/// The kernels' last parameters: MLX passes those positions that it finds named in a body.
constexpr const char* kPositions =
    "threadgroup_position_in_grid, simdgroup_index_in_threadgroup, thread_index_in_simdgroup);";

int ceil_div(int a, int b) { return (a + b - 1) / b; }

/// Whether an array's data, or that of the copy made of it, lies at a multiple of 16 bytes, and so
/// do the parts of it that are `stride` elements apart.
bool aligned(const mx::array& a, bool copied, int64_t stride = 0) {
  const bool base = (copied && !a.flags().row_contiguous) || a.offset() % 16 == 0;
  return base && stride * static_cast<int64_t>(a.itemsize()) % 16 == 0;
}

/// What both gathering operations have in common.
struct Gather {
  MetalCall call;
  MetalPlan plan;
  std::vector<const ExpertArrays*> stacks;
  PairStrides indices;
  bool copied, wide, wide_x;

  /// @param contiguous  whether all else that the kernel reads can be read in place.
  Gather(MetalCall c, MetalPlan p, const mx::array& x, std::vector<const ExpertArrays*> arrays,
         const mx::array& rhs, bool contiguous)
      : call(std::move(c)), plan(std::move(p)), stacks(std::move(arrays)), indices(rhs) {
    copied = !(contiguous && x.flags().row_contiguous && indices.ok);
    for (const auto* s : stacks) {
      // Kernels step through scales and biases by one number.
      const bool same_steps = !s->biases || s->biases->strides(0) == s->scales->strides(0);
      copied |= !s->readable(metal_readable) || !same_steps;
    }
    if (copied) indices = PairStrides(call.top_k);
    wide = true;
    for (const auto* s : stacks) wide &= aligned(*s->w, copied, s->stride(s->w, copied));
    wide_x = aligned(x, copied);
  }

  void add_to(KeyBuilder& key) const {
    const auto& q = call.quantization;
    key.add(type_code(call.type), q.bits, q.group_size, q.affine(), call.K, call.N, call.experts,
            call.tokens, call.top_k, call.exact, indices.token, indices.slot,
            copied + 2 * wide + 4 * wide_x);
    for (const auto* s : stacks) s->add_to(key, copied);
  }

  void add_to(Config& config) const {
    config.type("T", metal_type(call.type));
    config.type("Intermediate", call.exact ? metal_type(call.type) : "float");
    config.number("kBits", call.quantization.bits);
    config.number("kGroup", call.quantization.group_size);
    config.flag("kAffine", call.quantization.affine());
    config.number("K", call.K);
    config.number("N", call.N);
    config.number("E", call.experts);
    config.number("kTopK", call.top_k);
    config.number("kPacks", plan.packs);
    config.number("kRows", plan.rows);
    config.number("kSimdgroups", plan.simdgroups);
    config.number("kIndexTokenStride", indices.token);
    config.number("kIndexSlotStride", indices.slot);
    config.flag("kWide", wide);
    config.flag("kWideX", wide_x);
  }

  std::string text(const ExpertArrays& arrays, const std::string& prefix) const {
    return "zmlx::Product<zmlx::Config>::Weights" + arrays.fields(prefix, "l", copied);
  }
};

struct SwigluCall {
  const GatherQmmSwiglu::Options& options;
  InputReader in;
  const mx::array& x;
  ExpertArrays gate, up;
  const mx::array& rhs;
  const mx::array* lhs;
  int x_rows;
  Gather gather;

  SwigluCall(const GatherQmmSwiglu::Options& o, const std::vector<mx::array>& inputs)
      : options(o),
        in(inputs),
        x(in.next()),
        gate(in, o.quantization, o.has_gate_bias),
        up(in, o.quantization, o.has_up_bias),
        rhs(in.next()),
        lhs(in.pointer_if(o.has_lhs_indices)),
        x_rows(static_cast<int>(x.size() / x.shape(-1))),
        gather(call(), plan_metal_swiglu(call()), x, {&gate, &up}, rhs,
               !lhs || lhs->flags().row_contiguous) {
    if (!gather.plan.obstacle.empty()) refuse_metal("gather_qmm_swiglu", gather.plan.obstacle);
  }

  MetalCall call() const {
    return metal_call(x, *gate.w, rhs, options.quantization, options.exact,
                      options.sorted_indices && !lhs);
  }

  LaunchKey key(int stream) const {
    KeyBuilder key;
    key.add(Operation::swiglu, stream);
    gather.add_to(key);
    key.add(options.activation, x_rows, lhs != nullptr);
    key.add(options.alpha);
    key.add(options.limit);
    return key.key();
  }

  MetalKernel kernel() const {
    Config config(kMetalConstant);
    gather.add_to(config);
    config.number("kXRows", x_rows);
    config.flag("kRowIndices", lhs != nullptr);
    config.flag("kRowPerToken", x_rows != gather.call.pairs());
    config.flag("kGeglu", options.activation == Activation::geglu);
    config.flag("kClamped", options.activation == Activation::swiglu_clamped);
    config.number("kAlphaBits", bits_of(options.alpha));
    config.number("kLimitBits", bits_of(options.limit));
    std::vector<std::string> names{"x"};
    gate.add_names(names, "gate_");
    up.add_names(names, "up_");
    names.push_back("indices");
    if (lhs) names.push_back("rows");
    const auto& plan = gather.plan;
    return {"zmlx_gather_qmm_swiglu",
            "gather_qmm_swiglu.h",
            config.text(),
            "zmlx::gather_qmm_swiglu<zmlx::Config>(x, " + gather.text(gate, "gate_") + ", " +
                gather.text(up, "up_") + ", indices, " + (lhs ? "rows" : "nullptr") + ", out, " +
                kPositions,
            names,
            {"out"},
            {gather.call.pairs(), ceil_div(gather.call.N, plan.rows * plan.simdgroups), 1},
            32 * plan.simdgroups,
            gather.copied};
  }
};

struct CombineCall {
  const GatherQmmCombine::Options& options;
  InputReader in;
  const mx::array& x;
  ExpertArrays down;
  const mx::array& rhs;
  const mx::array& weights;
  Gather gather;
  PairStrides weight_strides;

  CombineCall(const GatherQmmCombine::Options& o, const std::vector<mx::array>& inputs)
      : options(o),
        in(inputs),
        x(in.next()),
        down(in, o.quantization, o.has_bias),
        rhs(in.next()),
        weights(in.next()),
        gather(call(), plan_metal_combine(call()), x, {&down}, rhs, PairStrides(weights).ok),
        weight_strides(weights) {
    if (!gather.plan.obstacle.empty()) refuse_metal("gather_qmm_combine", gather.plan.obstacle);
    if (gather.copied) weight_strides = PairStrides(gather.call.top_k);
  }

  MetalCall call() const {
    return metal_call(x, *down.w, rhs, options.quantization, options.exact, false);
  }

  LaunchKey key(int stream) const {
    KeyBuilder key;
    key.add(Operation::combine, stream);
    gather.add_to(key);
    key.add(type_code(weights.dtype()), weight_strides.token, weight_strides.slot);
    return key.key();
  }

  MetalKernel kernel() const {
    const auto& plan = gather.plan;
    Config config(kMetalConstant);
    gather.add_to(config);
    config.type("Weight", metal_type(weights.dtype()));
    config.type("Sum", options.exact ? metal_type(options.type) : "float");
    config.type("Out", metal_type(options.type));
    config.number("kTiles", plan.tiles);
    config.number("kProducts", gather.call.top_k * plan.tiles * plan.rows);
    config.number("kWeightTokenStride", weight_strides.token);
    config.number("kWeightSlotStride", weight_strides.slot);
    std::vector<std::string> names{"x"};
    down.add_names(names, "down_");
    names.insert(names.end(), {"indices", "weights"});
    return {"zmlx_gather_qmm_combine",
            "gather_qmm_combine.h",
            config.text(),
            "threadgroup zmlx::Config::Sum products[zmlx::Config::kProducts];\n"
            "zmlx::gather_qmm_combine<zmlx::Config>(x, " +
                gather.text(down, "down_") + ", indices, weights, out, products, " + kPositions,
            names,
            {"out"},
            {gather.call.tokens, ceil_div(gather.call.N, plan.tiles * plan.rows), 1},
            32 * plan.simdgroups * plan.tiles,
            gather.copied};
  }
};

struct NormCall {
  const AddRmsNorm::Options& options;
  mx::Dtype type;
  int width, rows;
  bool copied = false;

  NormCall(const AddRmsNorm::Options& o, const std::vector<mx::array>& inputs)
      : options(o),
        type(inputs[0].dtype()),
        width(inputs[0].shape(-1)),
        rows(static_cast<int>(inputs[0].size()) / width) {
    const auto obstacle = metal_norm_obstacle(width);
    if (!obstacle.empty()) refuse_metal("add_rms_norm", obstacle);
    for (const auto& a : inputs) copied |= !a.flags().row_contiguous;
  }

  LaunchKey key(int stream) const {
    KeyBuilder key;
    key.add(Operation::norm, stream, type_code(type), width, rows, options.has_weight, copied);
    key.add(options.eps);
    return key.key();
  }

  MetalKernel kernel() const {
    const int simdgroups = metal_norm_simdgroups(width);
    Config config(kMetalConstant);
    config.type("T", metal_type(type));
    config.number("D", width);
    config.number("kSimdgroups", simdgroups);
    config.number("kEpsBits", bits_of(options.eps));
    config.flag("kHasWeight", options.has_weight);
    std::vector<std::string> names{"x", "residual"};
    if (options.has_weight) names.push_back("weight");
    return {"zmlx_add_rms_norm",
            "add_rms_norm.h",
            config.text(),
            "threadgroup float shared[33];\n"
            "zmlx::add_rms_norm<zmlx::Config>(x, residual, " +
                std::string(options.has_weight ? "weight" : "nullptr") + ", normed, sum, shared, " +
                kPositions,
            names,
            {"normed", "sum"},
            {rows, 1, 1},
            32 * simdgroups,
            copied};
  }
};

template <typename Call>
void launch(const Call& call, const mx::Stream& stream, const std::vector<mx::array>& inputs,
            std::vector<mx::array>& outputs) {
  launch_metal(call.key(stream.index), stream, inputs, outputs, [&] { return call.kernel(); });
}

}  // namespace

MetalKernel metal_kernel_of(const GatherQmmSwiglu::Options& options,
                            const std::vector<mx::array>& inputs) {
  return SwigluCall(options, inputs).kernel();
}

MetalKernel metal_kernel_of(const GatherQmmCombine::Options& options,
                            const std::vector<mx::array>& inputs) {
  return CombineCall(options, inputs).kernel();
}

MetalKernel metal_kernel_of(const AddRmsNorm::Options& options,
                            const std::vector<mx::array>& inputs) {
  return NormCall(options, inputs).kernel();
}

void GatherQmmSwiglu::eval_metal(const std::vector<mx::array>& inputs,
                                 std::vector<mx::array>& outputs) {
  launch(SwigluCall(options_, inputs), stream(), inputs, outputs);
}

void GatherQmmCombine::eval_metal(const std::vector<mx::array>& inputs,
                                  std::vector<mx::array>& outputs) {
  launch(CombineCall(options_, inputs), stream(), inputs, outputs);
}

void AddRmsNorm::eval_metal(const std::vector<mx::array>& inputs, std::vector<mx::array>& outputs) {
  launch(NormCall(options_, inputs), stream(), inputs, outputs);
}

}  // namespace zmlx::fast
