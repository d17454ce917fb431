#pragma once

#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "fast/fused_primitive.h"
#include "fast/quantization.h"
#include "zmlx/moe_block.h"

/// The primitives behind `zmlx/fast.h`. Each is built in the file of its name in this folder, and
/// evaluated in the file of its name in each backend's folder.
namespace zmlx::fast {

enum class Activation { swiglu, geglu, swiglu_clamped };
/// @throws std::invalid_argument if there is no such activation.
Activation parse_activation(const std::string& name);

/// Inputs: x, gate (w, scales, [biases], [bias]), up (likewise), rhs_indices, [lhs_indices].
class GatherQmmSwiglu : public FusedPrimitive {
 public:
  struct Options {
    Quantization quantization;
    Activation activation;
    float alpha, limit;
    bool has_gate_bias, has_up_bias, has_lhs_indices, sorted_indices, transpose;
    mx::Dtype type;
    bool exact;        // numerics "exact", which matters on GPUs
    int max_rows;      // tokens up to which GPUs run the fused kernel
    bool x_is_tokens;  // x is (..., D), one row a token, instead of (..., 1, 1, D)
    bool operator==(const Options&) const = default;
  };
  GatherQmmSwiglu(mx::Stream stream, Options options)
      : FusedPrimitive(stream), options_(std::move(options)) {}

  const Options& options() const { return options_; }
  std::vector<mx::array> fallback(const std::vector<mx::array>& inputs) const override;
  void eval_cpu(const std::vector<mx::array>& inputs, std::vector<mx::array>& outputs) override;
  std::pair<std::vector<mx::array>, std::vector<int>> vmap(const std::vector<mx::array>& inputs,
                                                           const std::vector<int>& axes) override;
  std::vector<mx::Shape> output_shapes(const std::vector<mx::array>& inputs) override;
  const char* name() const override { return "gather_qmm_swiglu"; }
  bool is_equivalent(const Primitive& other) const override {
    return options_ == static_cast<const GatherQmmSwiglu&>(other).options_;
  }

 protected:
  void eval_cuda(const std::vector<mx::array>& inputs, std::vector<mx::array>& outputs) override;
  void eval_metal(const std::vector<mx::array>& inputs, std::vector<mx::array>& outputs) override;

 private:
  Options options_;
};

/// The arrays of one call, indices already of type uint32.
struct SwigluArguments {
  const mx::array& x;
  QuantizedWeights gate, up;
  const mx::array& rhs;
  const mx::array* lhs;  // null if absent
};
/// Why no kernel takes a call; empty if one does.
std::string obstacle(const SwigluArguments& arguments, const GatherQmmSwiglu::Options& options,
                     const mx::Stream& s);
/// The fused call, if nothing is in its way.
mx::array fused(const SwigluArguments& arguments, GatherQmmSwiglu::Options options,
                const mx::Stream& s);

/// Inputs: x, w, scales, [biases], [bias], rhs_indices, weights.
class GatherQmmCombine : public FusedPrimitive {
 public:
  struct Options {
    Quantization quantization;
    bool has_bias, transpose;
    mx::Dtype type;
    bool exact;
    int max_rows;
    bool operator==(const Options&) const = default;
  };
  GatherQmmCombine(mx::Stream stream, Options options)
      : FusedPrimitive(stream), options_(std::move(options)) {}

  const Options& options() const { return options_; }
  std::vector<mx::array> fallback(const std::vector<mx::array>& inputs) const override;
  void eval_cpu(const std::vector<mx::array>& inputs, std::vector<mx::array>& outputs) override;
  std::pair<std::vector<mx::array>, std::vector<int>> vmap(const std::vector<mx::array>& inputs,
                                                           const std::vector<int>& axes) override;
  std::vector<mx::Shape> output_shapes(const std::vector<mx::array>& inputs) override;
  const char* name() const override { return "gather_qmm_combine"; }
  bool is_equivalent(const Primitive& other) const override {
    return options_ == static_cast<const GatherQmmCombine&>(other).options_;
  }

 protected:
  void eval_cuda(const std::vector<mx::array>& inputs, std::vector<mx::array>& outputs) override;
  void eval_metal(const std::vector<mx::array>& inputs, std::vector<mx::array>& outputs) override;

 private:
  Options options_;
};

/// The arrays of one call, indices already of type uint32.
struct CombineArguments {
  const mx::array& x;
  QuantizedWeights experts;
  const mx::array& rhs;
  const mx::array& weights;
};
/// Why no kernel takes a call; empty if one does.
std::string obstacle(const CombineArguments& arguments, const GatherQmmCombine::Options& options,
                     const mx::Stream& s);
/// The fused call, if nothing is in its way.
mx::array fused(const CombineArguments& arguments, GatherQmmCombine::Options options,
                const mx::Stream& s);

/// Inputs: x, [residual], [weight]. Outputs: normed, and with a residual the sum.
class AddRmsNorm : public FusedPrimitive {
 public:
  struct Options {
    float eps;
    bool has_residual, has_weight;
    mx::Dtype sum_type, normed_type;
    bool operator==(const Options&) const = default;
  };
  AddRmsNorm(mx::Stream stream, Options options) : FusedPrimitive(stream), options_(options) {}

  const Options& options() const { return options_; }
  std::vector<mx::array> fallback(const std::vector<mx::array>& inputs) const override;
  void eval_cpu(const std::vector<mx::array>& inputs, std::vector<mx::array>& outputs) override;
  std::vector<mx::array> jvp(const std::vector<mx::array>& primals,
                             const std::vector<mx::array>& tangents,
                             const std::vector<int>& argnums) override;
  std::pair<std::vector<mx::array>, std::vector<int>> vmap(const std::vector<mx::array>& inputs,
                                                           const std::vector<int>& axes) override;
  std::vector<mx::Shape> output_shapes(const std::vector<mx::array>& inputs) override;
  const char* name() const override { return "add_rms_norm"; }
  bool is_equivalent(const Primitive& other) const override {
    return options_ == static_cast<const AddRmsNorm&>(other).options_;
  }

 protected:
  void eval_cuda(const std::vector<mx::array>& inputs, std::vector<mx::array>& outputs) override;
  void eval_metal(const std::vector<mx::array>& inputs, std::vector<mx::array>& outputs) override;

 private:
  Options options_;
};

/// Inputs: x, w, scales, [biases].
class QuantizedMatmul : public FusedPrimitive {
 public:
  QuantizedMatmul(mx::Stream stream, Quantization quantization)
      : FusedPrimitive(stream), quantization_(std::move(quantization)) {}

  const Quantization& quantization() const { return quantization_; }
  std::vector<mx::array> fallback(const std::vector<mx::array>& inputs) const override;
  void eval_cpu(const std::vector<mx::array>& inputs, std::vector<mx::array>& outputs) override;
  std::pair<std::vector<mx::array>, std::vector<int>> vmap(const std::vector<mx::array>& inputs,
                                                           const std::vector<int>& axes) override;
  std::vector<mx::Shape> output_shapes(const std::vector<mx::array>& inputs) override;
  const char* name() const override { return "quantized_matmul"; }
  bool is_equivalent(const Primitive& other) const override {
    return quantization_ == static_cast<const QuantizedMatmul&>(other).quantization_;
  }

 private:
  Quantization quantization_;
};

enum class RouteScore { softmax, sigmoid, topk_softmax };

/// Inputs: logits, [select_bias]. Outputs: indices, weights.
class MoeRoute : public FusedPrimitive {
 public:
  struct Options {
    RouteScore score;
    int k, n_group, topk_group;
    bool renormalize;
    float scale, eps;
    bool ascending, group_max;
    float group_fill;
    bool precise, has_bias;
    mx::Dtype score_type, weights_type;
    bool exact;
    int max_rows;
    bool operator==(const Options&) const = default;

    bool drops_groups() const { return topk_group < n_group; }
  };
  MoeRoute(mx::Stream stream, Options options)
      : FusedPrimitive(stream), options_(std::move(options)) {}

  const Options& options() const { return options_; }
  std::vector<mx::array> fallback(const std::vector<mx::array>& inputs) const override;
  void eval_cpu(const std::vector<mx::array>& inputs, std::vector<mx::array>& outputs) override;
  std::vector<mx::array> vjp(const std::vector<mx::array>& primals,
                             const std::vector<mx::array>& cotangents,
                             const std::vector<int>& argnums,
                             const std::vector<mx::array>& outputs) override;
  std::vector<mx::array> jvp(const std::vector<mx::array>& primals,
                             const std::vector<mx::array>& tangents,
                             const std::vector<int>& argnums) override;
  std::pair<std::vector<mx::array>, std::vector<int>> vmap(const std::vector<mx::array>& inputs,
                                                           const std::vector<int>& axes) override;
  std::vector<mx::Shape> output_shapes(const std::vector<mx::array>& inputs) override;
  const char* name() const override { return "moe_route"; }
  bool is_equivalent(const Primitive& other) const override {
    return options_ == static_cast<const MoeRoute&>(other).options_;
  }

 protected:
  void eval_cuda(const std::vector<mx::array>& inputs, std::vector<mx::array>& outputs) override;
  void eval_metal(const std::vector<mx::array>& inputs, std::vector<mx::array>& outputs) override;

 private:
  Options options_;
};

/// The options of a call, for logits of a type; `max_rows` is the default.
/// @throws std::invalid_argument for unknown names and types.
MoeRoute::Options resolve_route(const RouteOptions& route, mx::Dtype logits, bool has_bias,
                                const std::string& numerics);

}  // namespace zmlx::fast
