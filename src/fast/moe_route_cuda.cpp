// The router on CUDA: its options become the constants of src/cuda/moe_route.cuh.

#include "fast/moe_route_cuda.h"

#include "fast/cuda_kernel.h"
#include "fast/cuda_path.h"
#include "fast/route_types.h"

namespace zmlx::fast {

void add_route(Config& config, const MoeRoute::Options& o, const RouteCall& call) {
  const RouteTypes types(o, call.bias);
  config.type("Logit", type_name(call.logits));
  config.type("Score", type_name(types.score));
  config.type("Acc", type_name(types.softmax));
  config.type("Select", type_name(types.select));
  config.type("Bias", type_name(call.bias));
  config.type("Weight", type_name(o.weights_type));
  config.number("E", call.experts);
  config.number("K", o.k);
  config.number("kGroups", o.n_group);
  config.number("kDroppedGroups", o.n_group - o.topk_group);
  config.number("kSumReads", row_sum_reads(call.ndim, mx::size_of(types.score)));
  add_route_constants(config, o);
}

void add_route(KeyBuilder& key, const MoeRoute::Options& o, const RouteCall& call) {
  key.add(type_code(call.logits), type_code(call.bias), type_code(o.score_type),
          type_code(o.weights_type), call.experts, o.k, call.ndim, o.score, o.n_group,
          o.topk_group);
  key.add(o.renormalize + 2 * o.ascending + 4 * o.group_max + 8 * o.precise + 16 * o.has_bias +
          32 * o.exact);
  for (float value : {o.scale, o.eps, o.group_fill}) key.add(value);
}

void MoeRoute::eval_cuda(const std::vector<mx::array>& inputs, std::vector<mx::array>& outputs) {
  const auto& o = options_;
  const auto& logits = inputs[0];
  const auto bias = o.has_bias ? inputs[1].dtype() : mx::float32;
  const int experts = logits.shape(-1), rows = static_cast<int>(logits.size()) / experts;
  bool copied = false;
  for (const auto& a : inputs) copied |= !a.flags().row_contiguous;
  KeyBuilder key;
  const RouteCall call{logits.dtype(), bias, experts, logits.ndim()};
  key.add(Operation::route, stream().index, rows, copied);
  add_route(key, o, call);
  auto describe = [&] {
    std::vector<std::string> names{"logits"};
    if (o.has_bias) names.push_back("select_bias");
    Config config;
    add_route(config, o, call);
    return CudaKernel{"moe_route.cuh",
                      config.text(),
                      std::string("zmlx::MoeRoute<zmlx::Config>::run(logits, ") +
                          (o.has_bias ? "select_bias" : "nullptr") + ", indices, weights);",
                      names,
                      {"indices", "weights"},
                      {},
                      {rows, 1, 1},
                      32,
                      1,
                      0,
                      copied};
  };
  launch_cuda(key.key(), stream(), inputs, outputs, describe);
}

}  // namespace zmlx::fast
