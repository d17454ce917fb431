// Evaluation on CUDA: arrays become a kernel's constants and launch. The kernels are in src/cuda.

#include <cstring>

#include "fast/cuda_config.h"
#include "fast/cuda_path.h"
#include "fast/expert_arrays.h"
#include "fast/primitives.h"

namespace zmlx::fast {

namespace {

/// What both gathering operations tell their kernels.
void add_call(Config& config, const CudaCall& call, const CudaPlan& plan,
              const PairStrides& indices) {
  config.type("T", type_name(call.type));
  config.type("Intermediate", call.exact ? type_name(call.type) : "float");
  config.number("kBits", call.quantization.bits);
  config.number("kGroup", call.quantization.group_size);
  config.number("K", call.K);
  config.number("N", call.N);
  config.number("E", call.experts);
  config.number("kTopK", call.top_k);
  config.number("kThreads", plan.threads);
  config.number("kRing", plan.ring);
  config.number("kMaxTokens", plan.max_tokens);
  config.number("kMaxPairs", plan.max_pairs);
  config.number("kIndexTokenStride", indices.token);
  config.number("kIndexSlotStride", indices.slot);
  config.flag("kExact", call.exact);
  config.flag("kFp", plan.product == CudaProduct::fp);
}

void add_call(KeyBuilder& key, const CudaCall& call, const PairStrides& indices, bool copied) {
  const auto& q = call.quantization;
  key.add(type_code(call.type), q.bits, q.group_size, q.affine(), call.K, call.N, call.experts,
          call.tokens, call.top_k, call.exact, indices.token, indices.slot, copied);
}

int blocks(int size, int tile) { return (size + tile - 1) / tile; }

}  // namespace

void GatherQmmSwiglu::eval_cuda(const std::vector<mx::array>& inputs,
                                std::vector<mx::array>& outputs) {
  InputReader in(inputs);
  const auto& x = in.next();
  const ExpertArrays gate(in, options_.quantization, options_.has_gate_bias);
  const ExpertArrays up(in, options_.quantization, options_.has_up_bias);
  const auto& rhs = in.next();
  const auto* lhs = in.pointer_if(options_.has_lhs_indices);

  const auto call = cuda_call(x, *gate.w, rhs, options_.quantization, options_.exact);
  const auto plan = plan_swiglu(call);
  if (!plan.obstacle.empty()) refuse(name(), plan.obstacle);
  PairStrides strides(rhs);
  const bool copied =
      !(x.flags().row_contiguous && gate.readable(cuda_readable) && up.readable(cuda_readable) &&
        strides.ok && (!lhs || lhs->flags().row_contiguous));
  if (copied) strides = PairStrides(call.top_k);
  const int rows = static_cast<int>(x.size() / x.shape(-1));
  const bool row_per_token = rows != call.pairs();

  KeyBuilder key;
  key.add(Operation::swiglu, stream().index);
  add_call(key, call, strides, copied);
  key.add(options_.activation, rows, lhs != nullptr);
  key.add(options_.alpha);
  key.add(options_.limit);
  gate.add_to(key, copied);
  up.add_to(key, copied);
  auto describe = [&] {
    const auto type = qualified(type_name(call.type));
    Config config;
    add_call(config, call, plan, strides);
    config.number("kRows", lhs ? rows : 0);
    config.flag("kRowIndices", lhs != nullptr);
    config.flag("kRowPerToken", row_per_token);
    config.flag("kClamped", options_.activation == Activation::swiglu_clamped);
    config.real("kAlpha", options_.alpha);
    config.real("kLimit", options_.limit);
    std::vector<std::string> names{"x"};
    gate.add_names(names, "gate_");
    up.add_names(names, "up_");
    names.push_back("indices");
    if (lhs) names.push_back("rows");
    const bool mma = plan.product == CudaProduct::mma;
    const auto arguments = "(x, " + experts_text(gate, "gate_", type.c_str(), copied) + ", " +
                           experts_text(up, "up_", type.c_str(), copied) + ", indices, " +
                           (lhs ? "rows" : "nullptr") + ", out);";
    const int tiles = blocks(call.N, plan.tile);
    return CudaKernel{mma ? "gather_qmm_swiglu_mma.cuh" : "gather_qmm_swiglu_rows.cuh",
                      config.text(),
                      (mma ? "zmlx::SwigluMma<zmlx::Config>::run"
                           : "zmlx::gather_qmm_swiglu_rows<zmlx::Config>") +
                          arguments,
                      names,
                      {"out"},
                      {},
                      mma ? std::tuple{tiles, call.pairs(), 1} : std::tuple{call.pairs(), tiles, 1},
                      plan.threads,
                      plan.blocks_per_sm,
                      plan.shared_memory,
                      copied};
  };
  launch_cuda(key.key(), stream(), inputs, outputs, describe);
}

void GatherQmmCombine::eval_cuda(const std::vector<mx::array>& inputs,
                                 std::vector<mx::array>& outputs) {
  InputReader in(inputs);
  const auto& x = in.next();
  const ExpertArrays down(in, options_.quantization, options_.has_bias);
  const auto& rhs = in.next();
  const auto& weights = in.next();

  const auto call = cuda_call(x, *down.w, rhs, options_.quantization, options_.exact);
  const char* sum = options_.exact ? type_name(options_.type) : "float";
  const auto plan = plan_combine(call, std::strcmp(sum, "float") == 0 ? 4 : 2);
  if (!plan.obstacle.empty()) refuse(name(), plan.obstacle);
  PairStrides strides(rhs), weight_strides(weights);
  const bool copied = !(x.flags().row_contiguous && down.readable(cuda_readable) && strides.ok &&
                        weight_strides.ok);
  if (copied) strides = weight_strides = PairStrides(call.top_k);

  KeyBuilder key;
  key.add(Operation::combine, stream().index);
  add_call(key, call, strides, copied);
  key.add(type_code(weights.dtype()), weight_strides.token, weight_strides.slot);
  down.add_to(key, copied);
  auto describe = [&] {
    const auto type = qualified(type_name(call.type));
    Config config;
    add_call(config, call, plan, strides);
    config.type("Weight", type_name(weights.dtype()));
    config.type("Sum", sum);
    config.type("Out", type_name(options_.type));
    config.number("kWeightTokenStride", weight_strides.token);
    config.number("kWeightSlotStride", weight_strides.slot);
    std::vector<std::string> names{"x"};
    down.add_names(names, "down_");
    names.insert(names.end(), {"indices", "weights"});
    const bool mma = plan.product == CudaProduct::mma;
    const auto experts = experts_text(down, "down_", type.c_str(), copied);
    const int tiles = blocks(call.N, plan.tile);
    return CudaKernel{mma ? "gather_qmm_combine_mma.cuh" : "gather_qmm_combine_rows.cuh",
                      config.text(),
                      mma ? "zmlx::CombineMma<zmlx::Config>(x, " + experts +
                                ", indices, weights, tokens).run(out);"
                          : "zmlx::gather_qmm_combine_rows<zmlx::Config>(x, " + experts +
                                ", indices, weights, out);",
                      names,
                      {"out"},
                      {{"tokens", call.tokens}},
                      mma ? std::tuple{tiles, 1, 1} : std::tuple{call.tokens, tiles, 1},
                      plan.threads,
                      plan.blocks_per_sm,
                      plan.shared_memory,
                      copied};
  };
  launch_cuda(key.key(), stream(), inputs, outputs, describe);
}

void AddRmsNorm::eval_cuda(const std::vector<mx::array>& inputs, std::vector<mx::array>& outputs) {
  const auto& x = inputs[0];
  const int width = x.shape(-1);
  const int rows = static_cast<int>(x.size() / width);
  bool copied = false;
  for (const auto& a : inputs) copied |= !a.flags().row_contiguous || a.offset() % 16 != 0;
  KeyBuilder key;
  key.add(Operation::norm, stream().index, type_code(x.dtype()), width, rows, options_.has_weight,
          copied);
  key.add(options_.eps);
  auto describe = [&] {
    const int threads = rms_norm_threads(width, x.itemsize());
    std::vector<std::string> names{"x", "residual"};
    if (options_.has_weight) names.push_back("weight");
    const auto type = qualified(type_name(x.dtype()));
    return CudaKernel{
        "add_rms_norm.cuh",
        "",
        "zmlx::add_rms_norm<" + type + ", " + std::to_string(width) + ", " +
            std::to_string(threads) + ">(x, residual, " +
            (options_.has_weight ? "weight" : "static_cast<const " + type + "*>(nullptr)") + ", " +
            Config::exactly(options_.eps) + ", normed, sum);",
        names,
        {"normed", "sum"},
        {},
        {rows, 1, 1},
        threads,
        1,
        0,
        copied};
  };
  launch_cuda(key.key(), stream(), inputs, outputs, describe);
}

}  // namespace zmlx::fast
