#pragma once

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

}  // namespace zmlx::fast
