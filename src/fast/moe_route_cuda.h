#pragma once

#include "fast/cuda_config.h"
#include "fast/primitives.h"

/// A router's options as the constants of src/cuda/moe_route.cuh.
namespace zmlx::fast {

/// What decides on a router's kernel besides its options.
struct RouteCall {
  mx::Dtype logits, bias;  ///< types; float32 for a bias that there is none of
  int experts;
  size_t ndim;  ///< of the logits, on which the order of a sum depends
};

void add_route(Config& config, const MoeRoute::Options& options, const RouteCall& call);
void add_route(KeyBuilder& key, const MoeRoute::Options& options, const RouteCall& call);

}  // namespace zmlx::fast
