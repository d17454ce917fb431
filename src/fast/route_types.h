#pragma once

#include "fast/kernel_config.h"
#include "fast/primitives.h"

namespace zmlx::fast {

/// The types that a router's call computes in.
struct RouteTypes {
  mx::Dtype score, softmax, select;

  RouteTypes(const MoeRoute::Options& o, mx::Dtype bias)
      : score(o.exact ? o.score_type : mx::float32),
        softmax(o.precise ? mx::float32 : score),
        select(o.has_bias ? mx::promote_types(score, bias) : score) {}
};

/// The constants that the router's kernels of both GPUs have by the same names, types and sizes
/// aside.
inline void add_route_constants(Config& config, const MoeRoute::Options& o) {
  config.number("kEpsBits", bits_of(o.eps));
  config.number("kScaleBits", bits_of(o.scale));
  config.number("kFillBits", bits_of(o.group_fill));
  config.flag("kSoftmax", o.score == RouteScore::softmax);
  config.flag("kSigmoid", o.score == RouteScore::sigmoid);
  config.flag("kBias", o.has_bias);
  config.flag("kGroupMax", o.group_max);
  config.flag("kAscending", o.ascending);
  config.flag("kRenormalize", o.renormalize);
}

}  // namespace zmlx::fast
