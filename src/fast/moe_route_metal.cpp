// The router on Metal: its options become the constants of src/metal/moe_route.h.

#include "fast/metal_call.h"
#include "fast/metal_config.h"
#include "fast/metal_path.h"
#include "fast/route_types.h"

namespace zmlx::fast {

namespace {

std::string config_text(const MoeRoute::Options& o, const mx::array& logits, mx::Dtype bias) {
  const RouteTypes types(o, bias);
  const bool drops = o.drops_groups();
  Config config(kMetalConstant);
  config.type("Logit", metal_type(logits.dtype()));
  config.type("Score", metal_type(types.score));
  config.type("Acc", metal_type(types.softmax));
  config.type("Select", metal_type(types.select));
  config.type("Bias", metal_type(bias));
  config.type("Weight", metal_type(o.weights_type));
  config.number("E", logits.shape(-1));
  config.number("K", o.k);
  config.number("kGroups", drops ? o.n_group : 1);
  config.number("kDroppedGroups", o.n_group - o.topk_group);
  config.number("kKeys", drops ? logits.shape(-1) : 1);
  add_route_constants(config, o);
  config.flag("kAddsEps", o.eps != 0);
  config.flag("kScales", o.scale != 1);
  config.flag("kOneAxis", logits.ndim() == 1);
  return config.text();
}

bool strided(const std::vector<mx::array>& inputs) {
  bool found = false;
  for (const auto& a : inputs) found |= !a.flags().row_contiguous;
  return found;
}

int rows_of(const mx::array& logits) { return static_cast<int>(logits.size()) / logits.shape(-1); }

}  // namespace

MetalKernel metal_kernel_of(const MoeRoute::Options& o, const std::vector<mx::array>& inputs) {
  const auto& logits = inputs[0];
  const auto bias = o.has_bias ? inputs[1].dtype() : mx::float32;
  std::vector<std::string> names{"logits"};
  if (o.has_bias) names.push_back("select_bias");
  return {"zmlx_moe_route",
          "moe_route.h",
          config_text(o, logits, bias),
          "threadgroup zmlx::Config::Score scores[zmlx::Config::E];\n"
          "threadgroup zmlx::Config::Score chosen[zmlx::Config::K];\n"
          "threadgroup uint32_t keys[zmlx::Config::kKeys];\n"
          "zmlx::MoeRoute<zmlx::Config>::run(logits, " +
              std::string(o.has_bias ? "select_bias" : "nullptr") +
              ", indices, weights, scores, chosen, keys, threadgroup_position_in_grid, "
              "thread_index_in_simdgroup);",
          names,
          {"indices", "weights"},
          {rows_of(logits), 1, 1},
          32,
          strided(inputs)};
}

void MoeRoute::eval_metal(const std::vector<mx::array>& inputs, std::vector<mx::array>& outputs) {
  const auto& o = options_;
  const auto& logits = inputs[0];
  KeyBuilder key;
  key.add(Operation::route, stream().index, type_code(logits.dtype()),
          type_code(inputs.back().dtype()), type_code(o.score_type), type_code(o.weights_type),
          logits.shape(-1), o.k, rows_of(logits), logits.ndim() == 1, o.score, o.n_group,
          o.topk_group, o.renormalize, o.ascending, o.group_max, o.precise, o.has_bias, o.exact,
          strided(inputs));
  key.add(o.scale);
  key.add(o.eps);
  key.add(o.group_fill);
  launch_metal(key.key(), stream(), inputs, outputs, [&] { return metal_kernel_of(o, inputs); });
}

}  // namespace zmlx::fast
