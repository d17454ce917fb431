#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "fast/inputs.h"
#include "fast/launch_key.h"
#include "fast/quantization.h"

/// A gathering operation's arrays as the GPUs' kernels are told of them.
namespace zmlx::fast {

/// The two strides of (..., K) indices or weights, from token to token and from slot to slot;
/// `ok` is false if the token axes have no one stride.
struct PairStrides {
  int64_t token = 0, slot = 1;
  bool ok = true;

  /// Of a contiguous array.
  explicit PairStrides(int top_k) : token(top_k) {}

  explicit PairStrides(const mx::array& a) {
    const int last = static_cast<int>(a.ndim()) - 1;
    if (last < 0) return;
    if (a.shape(last) > 1) slot = a.strides(last);
    token = a.shape(last);
    int64_t expected = 0;  // of the next axis outwards; 0 before the first longer than 1
    for (int axis = last - 1; axis >= 0; --axis) {
      if (a.shape(axis) == 1) continue;
      if (expected == 0) {
        token = a.strides(axis);
      } else if (a.strides(axis) != expected) {
        ok = false;
      }
      expected = a.strides(axis) * a.shape(axis);
    }
  }
};

/// One projection's arrays among a primitive's inputs.
struct ExpertArrays {
  const mx::array* w;
  const mx::array* scales;
  const mx::array* biases;
  const mx::array* bias;

  ExpertArrays(InputReader& in, const Quantization& q, bool has_bias)
      : w(&in.next()),
        scales(&in.next()),
        biases(in.pointer_if(q.affine())),
        bias(in.pointer_if(has_bias)) {}

  bool readable(bool (*stack_is_readable)(const mx::array&)) const {
    return stack_is_readable(*w) && stack_is_readable(*scales) &&
           (!biases || stack_is_readable(*biases)) &&
           (!bias || bias->strides(-1) == 1 || bias->shape(-1) == 1);
  }
  /// Elements from one expert to the next.
  static int64_t stride(const mx::array* a, bool copied) {
    if (!a) return 0;
    if (!copied) return a->strides(0);
    return static_cast<int64_t>(a->size()) / a->shape(0);
  }
  void add_to(KeyBuilder& key, bool copied) const {
    key.add(stride(w, copied), stride(scales, copied), stride(biases, copied),
            stride(bias, copied));
  }
  void add_names(std::vector<std::string>& names, const std::string& prefix) const {
    names.push_back(prefix + "w");
    names.push_back(prefix + "scales");
    if (biases) names.push_back(prefix + "biases");
    if (bias) names.push_back(prefix + "bias");
  }
  /// The fields of what kernels call Experts; `suffix` makes a literal one of 64 bits.
  std::string fields(const std::string& prefix, const char* suffix, bool copied) const {
    const auto or_null = [&](const mx::array* a, const char* name) {
      return ", " + (a ? prefix + name : "nullptr");
    };
    auto out = "{" + prefix + "w, " + prefix + "scales" + or_null(biases, "biases") +
               or_null(bias, "bias");
    for (const auto* a : {w, scales, biases, bias}) {
      out += ", " + std::to_string(stride(a, copied)) + suffix;
    }
    return out + "}";
  }
};

}  // namespace zmlx::fast
