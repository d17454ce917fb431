#include "zmlx/moe_block.h"

#include <nanobind/nanobind.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>

#include <array>

#include "mlx/ops.h"
#include "zmlx/decode_step.h"

namespace nb = nanobind;
namespace mx = mlx::core;
using namespace nb::literals;

namespace {

using zmlx::fast::Linear;
using zmlx::fast::MoeBlock;

/// What `module[name]` holds, or null. `nn.Module` is a dict.
PyObject* item(nb::handle module, nb::handle name) {
  return PyDict_GetItemWithError(module.ptr(), name.ptr());
}

std::optional<mx::array> array_item(nb::handle module, nb::handle name) {
  PyObject* value = item(module, name);
  if (!value || value == Py_None) return std::nullopt;
  return nb::cast<mx::array&>(nb::handle(value));
}

/// A layer of a block: where it is and what it must be.
struct Layer {
  nb::object owner, name, module;
  int group_size, bits;
  std::string mode;

  bool in_place() const { return item(owner, name) == module.ptr(); }
};

/// A block whose weights are read from its modules at every call, so that loading and updating
/// weights works as ever.
class Block {
 public:
  Block(nb::object module, nb::list layers, const std::string& score, int k, int n_group,
        int topk_group, bool renormalize, float scale, float eps, const std::string& order,
        const std::string& group_score, float group_fill, bool precise,
        std::optional<mx::Dtype> score_dtype, std::optional<mx::Dtype> weights_dtype,
        std::optional<nb::object> bias_owner, const std::string& bias_name,
        const std::string& activation, float alpha, float limit, bool bias_as_float32,
        bool weights_as_input, bool result_as_experts, int max_rows)
      : module_(std::move(module)),
        route_{score, k,           n_group,    topk_group, renormalize, scale,        eps,
               order, group_score, group_fill, precise,    score_dtype, weights_dtype},
        bias_owner_(std::move(bias_owner)),
        bias_name_(nb::str(bias_name.c_str())),
        activation_(activation),
        alpha_(alpha),
        limit_(limit),
        bias_as_float32_(bias_as_float32),
        weights_as_input_(weights_as_input),
        result_as_experts_(result_as_experts),
        max_rows_(max_rows) {
    if (nb::len(layers) != layers_.size()) throw nb::value_error("a block has four layers.");
    for (size_t i = 0; i < layers_.size(); ++i) {
      const nb::tuple t = nb::cast<nb::tuple>(layers[i]);
      layers_[i] = {nb::object(t[0]),    nb::object(t[1]),    nb::object(t[2]),
                    nb::cast<int>(t[3]), nb::cast<int>(t[4]), nb::cast<std::string>(t[5])};
    }
  }

  std::optional<mx::array> call(const mx::array& x) const {
    // Gradients and compilation trace the module's own code.
    if (x.is_tracer()) return std::nullopt;
    const auto block = read();
    if (!block) return std::nullopt;
    return zmlx::fast::moe_block(x, *block, max_rows_);
  }

  std::optional<mx::array> experts(const mx::array& x, const mx::array& indices,
                                   const mx::array& weights) const {
    if (x.is_tracer()) return std::nullopt;
    const auto block = read();
    if (!block) return std::nullopt;
    return zmlx::fast::moe_experts(x, block->experts, indices, weights, max_rows_);
  }

  std::optional<std::pair<mx::array, mx::array>> call_after_sum(const mx::array& x,
                                                                const mx::array& residual,
                                                                const mx::array& weight,
                                                                float eps) const {
    if (x.is_tracer() || x.ndim() != 3 || x.size() != static_cast<size_t>(x.shape(-1))) {
      return std::nullopt;
    }
    const auto block = read();
    if (!block) return std::nullopt;
    return zmlx::fast::moe_block_after_sum(x, {residual, weight, eps}, *block);
  }

 private:
  /// The block as it is now, or nothing if its own code has to run.
  std::optional<MoeBlock> read() const {
    for (const auto& layer : layers_) {
      if (!layer.in_place()) return std::nullopt;
    }
    std::optional<mx::array> select_bias;
    if (bias_owner_) {
      select_bias = array_item(*bias_owner_, bias_name_);
      if (!select_bias) return std::nullopt;
      if (bias_as_float32_) select_bias = mx::astype(*select_bias, mx::float32);
    }
    MoeBlock block{linear(layers_[0]),
                   select_bias,
                   route_,
                   {linear(layers_[1]), linear(layers_[2]), linear(layers_[3]), activation_, alpha_,
                    limit_, weights_as_input_, result_as_experts_}};
    for (const auto* layer : {&block.experts.gate, &block.experts.up, &block.experts.down}) {
      if (!layer->scales) return std::nullopt;
    }
    return block;
  }

  Linear linear(const Layer& layer) const {
    auto weight = array_item(layer.module, weight_);
    if (!weight) throw nb::key_error("weight");
    return {*weight,
            array_item(layer.module, scales_),
            array_item(layer.module, biases_),
            array_item(layer.module, bias_),
            layer.group_size,
            layer.bits,
            layer.mode};
  }

  nb::object module_;
  std::array<Layer, 4> layers_;
  zmlx::fast::RouteOptions route_;
  std::optional<nb::object> bias_owner_;
  nb::str bias_name_;
  std::string activation_;
  float alpha_, limit_;
  bool bias_as_float32_, weights_as_input_, result_as_experts_;
  int max_rows_;
  nb::str weight_{"weight"}, scales_{"scales"}, biases_{"biases"}, bias_{"bias"};
};

}  // namespace

void init_moe_block(nb::module_& m) {
  nb::class_<Block>(m, "MoeBlock", R"(A mixture-of-experts block of an mlx-lm model as one call.

Args:
    module: the block.
    layers: for the router, gate, up and down a tuple of the module that holds the layer, its name
        there, the layer, and its group size, bits and mode (0, 0 and "" if it is not quantized).
    bias_owner, bias_name: where the selection bias is, if there is one.
    bias_as_float32: whether the bias is cast to float32.
    weights_as_input: whether the router's weights are cast to the type of x.
    result_as_experts: whether the sum is cast to the type of the experts' outputs.
    max_rows: GPUs run the fused kernels for at most so many tokens.

The other arguments are those of ``zmlx.fast.moe_route`` and ``zmlx.fast.gather_qmm_swiglu``.
)")
      .def(nb::init<nb::object, nb::list, const std::string&, int, int, int, bool, float, float,
                    const std::string&, const std::string&, float, bool, std::optional<mx::Dtype>,
                    std::optional<mx::Dtype>, std::optional<nb::object>, const std::string&,
                    const std::string&, float, float, bool, bool, bool, int>(),
           "module"_a, "layers"_a, nb::kw_only(), "score"_a, "k"_a, "n_group"_a = 1,
           "topk_group"_a = 1, "renormalize"_a = false, "scale"_a = 1.0f, "eps"_a = 0.0f,
           "order"_a = "descending", "group_score"_a = "top2", "group_fill"_a = 0.0f,
           "precise"_a = true, "score_dtype"_a = nb::none(), "weights_dtype"_a = nb::none(),
           "bias_owner"_a = nb::none(), "bias_name"_a = "", "activation"_a = "swiglu",
           "alpha"_a = 1.702f, "limit"_a = 7.0f, "bias_as_float32"_a = false,
           "weights_as_input"_a = false, "result_as_experts"_a = false, "max_rows"_a = 32)
      .def(
          "__deepcopy__", [](nb::handle, nb::handle) { return nb::none(); },
          "None: a copy of a model has modules of its own to be described.")
      .def("__call__", &Block::call, "x"_a,
           "The block's output, or None where its own code is to run: while it is traced, after a "
           "layer was replaced, and where no fused kernel takes the call.")
      .def("experts", &Block::experts, "x"_a, "indices"_a, "weights"_a,
           "The weighted sum (..., D) of the experts that `indices` (..., K) choose, or None as "
           "above.")
      .def("after_sum", &Block::call_after_sum, "x"_a, "residual"_a, "weight"_a, "eps"_a,
           "`(output, x + residual)` of the block called with the RMS norm of that sum, for one "
           "token that one kernel takes; else None.");
}
