// The router on CUDA: its options become the constants of src/cuda/moe_route.cuh.

#include "fast/cuda_config.h"
#include "fast/cuda_path.h"
#include "fast/route_types.h"

namespace zmlx::fast {

namespace {

std::string config_text(const MoeRoute::Options& o, const mx::array& logits, mx::Dtype bias) {
  const RouteTypes types(o, bias);
  Config config;
  config.type("Logit", type_name(logits.dtype()));
  config.type("Score", type_name(types.score));
  config.type("Acc", type_name(types.softmax));
  config.type("Select", type_name(types.select));
  config.type("Bias", type_name(bias));
  config.type("Weight", type_name(o.weights_type));
  config.number("E", logits.shape(-1));
  config.number("K", o.k);
  config.number("kGroups", o.n_group);
  config.number("kDroppedGroups", o.n_group - o.topk_group);
  config.number("kSumReads", row_sum_reads(logits.ndim(), mx::size_of(types.score)));
  config.number("kEpsBits", bits_of(o.eps));
  config.number("kScaleBits", bits_of(o.scale));
  config.number("kFillBits", bits_of(o.group_fill));
  config.flag("kSoftmax", o.score == RouteScore::softmax);
  config.flag("kSigmoid", o.score == RouteScore::sigmoid);
  config.flag("kBias", o.has_bias);
  config.flag("kGroupMax", o.group_max);
  config.flag("kAscending", o.ascending);
  config.flag("kRenormalize", o.renormalize);
  return config.text();
}

}  // namespace

void MoeRoute::eval_cuda(const std::vector<mx::array>& inputs, std::vector<mx::array>& outputs) {
  const auto& o = options_;
  const auto& logits = inputs[0];
  const auto bias = o.has_bias ? inputs[1].dtype() : mx::float32;
  const int experts = logits.shape(-1), rows = static_cast<int>(logits.size()) / experts;
  bool copied = false;
  for (const auto& a : inputs) copied |= !a.flags().row_contiguous;
  KeyBuilder key;
  key.add(Operation::route, stream().index, type_code(logits.dtype()), type_code(bias),
          type_code(o.score_type), type_code(o.weights_type), experts, o.k, rows, logits.ndim(),
          o.score, o.n_group, o.topk_group, o.renormalize, o.ascending, o.group_max, o.precise,
          o.has_bias, o.exact, copied);
  key.add(o.scale);
  key.add(o.eps);
  key.add(o.group_fill);
  auto describe = [&] {
    std::vector<std::string> names{"logits"};
    if (o.has_bias) names.push_back("select_bias");
    return CudaKernel{"moe_route.cuh",
                      config_text(o, logits, bias),
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
