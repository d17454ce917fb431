#include <algorithm>
#include <cmath>
#include <span>

#include "fast/cuda_path.h"
#include "fast/dense_row.h"
#include "fast/step_primitive.h"
#include "mlx/ops.h"
#include "zmlx/explain.h"

namespace zmlx::fast {

namespace {

/// Inputs: x, [residual, norm weight], three of each layer, [head norms' weights], keys, values.
/// Outputs: queries, keys, values, [sum].
class AttentionHeads : public StepPrimitive {
 public:
  struct Options {
    RowProduct product;
    int heads, kv_heads, head_dim, position;
    std::optional<float> query_eps;  // if heads are normalised
    float key_eps;
    float log_base, rope_scale;
  };
  AttentionHeads(mx::Stream s, KeptInputs kept, Options options)
      : StepPrimitive(s, std::move(kept)), options_(std::move(options)) {}

  void eval_gpu(const std::vector<mx::array>& inputs, std::vector<mx::array>& outputs) override;
  const char* name() const override { return "attention_heads"; }

 private:
  CudaKernel describe(bool copied) const;

  Options options_;
};

int threads_of(int head_dim) { return 4 * head_dim; }

/// See AttentionHeads in src/cuda.
int shared_memory(const RowProduct& product, int head_dim) {
  return product.shared_memory(threads_of(head_dim), 4) + 6 * head_dim;
}

std::string obstacle(const mx::array& x, const std::optional<AddNorm>& norm,
                     const AttentionInputs& a, const mx::array& keys, const mx::array& values,
                     int position, const mx::Stream& s) {
  for (const auto* layer : {&a.q, &a.k, &a.v}) {
    if (auto reason = row_obstacle(x, *layer, s); !reason.empty()) return reason;
    if (layer->bits != a.q.bits || layer->group_size != a.q.group_size) {
      return "layers of different quantizations";
    }
  }
  if (norm) {
    if (auto reason = row_obstacle(x, *norm); !reason.empty()) return reason;
    if (threads_of(a.rope_dims) < rms_norm_threads(x.shape(-1), 2)) return "heads of that size";
  }
  const int head_dim = a.rope_dims;
  if (a.rope_traditional || head_dim % 8 != 0 || head_dim < 16 || head_dim > 256) {
    return "positions or a size of heads that the kernel does not take";
  }
  if (a.q.weight.shape(0) != a.n_heads * head_dim ||
      a.k.weight.shape(0) != a.n_kv_heads * head_dim ||
      a.v.weight.shape(0) != a.n_kv_heads * head_dim) {
    return "positions in a part of each head";
  }
  if (a.q_norm.has_value() != a.k_norm.has_value()) return "a norm of queries or keys alone";
  for (const auto* head_norm : {&a.q_norm, &a.k_norm}) {
    if (*head_norm &&
        ((*head_norm)->weight.is_tracer() || (*head_norm)->weight.dtype() != x.dtype() ||
         (*head_norm)->weight.shape() != mx::Shape{head_dim})) {
      return "a norm of another type or size, or a traced one";
    }
  }
  for (const auto* cache : {&keys, &values}) {
    if (cache->is_tracer() || cache->dtype() != x.dtype() || cache->ndim() != 4 ||
        cache->shape(0) != 1 || cache->shape(1) != a.n_kv_heads || cache->shape(2) <= position ||
        cache->shape(3) != head_dim) {
      return "a cache of another type or size";
    }
  }
  const RowProduct product{{a.q.mode, a.q.group_size, a.q.bits}, x.dtype(), x.shape(-1), {}};
  if (shared_memory(product, head_dim) > cuda_shared_limit(cuda_compute_capability())) {
    return "rows too long for shared memory";
  }
  return keys.shape(2) == values.shape(2) ? "" : "caches of different sizes";
}

/// Gives `out` the buffer of a cache to be written in place, or that of a copy where others hold
/// the cache, as MLX's slice_update does.
void take_over(const mx::array& cache, mx::array& out, const mx::Stream& s) {
  if (cache.is_donatable() && cache.flags().row_contiguous) return out.copy_shared_buffer(cache);
  mx::Shape stop = cache.shape();
  stop[2] = 1;
  mx::array first(stop, cache.dtype(), nullptr, {});
  first.copy_shared_buffer(cache, cache.strides(), {false, false, false}, cache.data_size());
  std::vector<mx::array> copy{
      mx::slice_update(cache, first, mx::Shape(4, 0), stop, mx::Shape(4, 1), s)};
  copy[0].primitive().eval_gpu({cache, first}, copy);
  out.copy_shared_buffer(copy[0]);
}

/// Every output of a primitive holds its inputs. Lets go of all but those that are evaluated, as
/// MLX does right afterwards, so that a cache that nobody else holds shows as such.
void release_inputs(const std::vector<mx::array>& inputs, std::vector<mx::array>& outputs) {
  const auto evaluated = std::ranges::count_if(
      outputs, [&](const mx::array& out) { return &out.inputs() == &inputs; });
  if (evaluated != 1 || outputs[0].is_tracer()) return;
  for (auto& out : outputs) {
    if (&out.inputs() != &inputs) out.inputs().clear();
  }
}

CudaKernel AttentionHeads::describe(bool copied) const {
  const auto& o = options_;
  const int threads = threads_of(o.head_dim);
  Config config;
  o.product.add_to(config, threads);
  config.number("kHeadDim", o.head_dim);
  config.number("kHeads", o.heads);
  config.number("kKvHeads", o.kv_heads);
  config.flag("kHeadNorm", o.query_eps.has_value());
  config.real("kQueryEps", o.query_eps.value_or(0.0f));
  config.real("kKeyEps", o.key_eps);
  config.real("kLogBase", o.log_base);
  config.real("kRopeScale", o.rope_scale);
  auto names = o.product.input_names();
  for (const char* part : {"q", "k", "v"}) append_layer_names(part, names);
  if (o.query_eps) names.insert(names.end(), {"q_norm", "k_norm"});
  std::vector<std::string> results{"queries", "keys", "values"};
  if (o.product.norm_eps) results.push_back("sum");
  return {"attention_heads.cuh",
          config.text(),
          "zmlx::AttentionHeads<zmlx::Config>::run(" + o.product.input_text() + ", {" +
              layer_text("q") + ", " + layer_text("k") + ", " + layer_text("v") +
              (o.query_eps ? ", q_norm, k_norm" : ", nullptr, nullptr") +
              "}, {queries, keys, values, " + (o.product.norm_eps ? "sum" : "nullptr") +
              "}, position, capacity);",
          names,
          results,
          {{"position", 0}, {"capacity", 0}},
          {o.heads + 2 * o.kv_heads, 1, 1},
          threads,
          1,
          shared_memory(o.product, o.head_dim),
          copied};
}

void AttentionHeads::eval_gpu(const std::vector<mx::array>& inputs,
                              std::vector<mx::array>& outputs) {
  const auto& o = options_;
  const size_t read = inputs.size() - 2;  // the caches are let go of before they are taken over
  const auto all = all_inputs(std::span(inputs).first(read));
  const bool copied = needs_copies(all);
  const int capacity = inputs[read].shape(2);
  release_inputs(inputs, outputs);
  take_over(inputs[read], outputs[1], stream());
  take_over(inputs[read + 1], outputs[2], stream());
  KeyBuilder key;
  key.add(Operation::heads, stream().index, copied, o.heads, o.kv_heads, o.head_dim,
          o.query_eps.has_value());
  o.product.add_to(key);
  for (float value : {o.query_eps.value_or(0.0f), o.key_eps, o.log_base, o.rope_scale}) {
    key.add(value);
  }
  launch(key.key(), all, outputs, [&] { return describe(copied); }, {o.position, capacity});
}

}  // namespace

std::optional<AttentionHeadsResult> attention_heads(const mx::array& x,
                                                    const std::optional<AddNorm>& norm,
                                                    const AttentionInputs& layer,
                                                    const mx::array& keys, const mx::array& values,
                                                    int position, mx::StreamOrDevice s_) {
  const auto s = mx::to_stream(s_);
  const auto reason = obstacle(x, norm, layer, keys, values, position, s);
  detail::note_path({"attention_heads", reason.empty() ? "cuda" : "fallback", reason});
  if (!reason.empty()) return std::nullopt;
  const auto& q = layer.q;
  AttentionHeads::Options options{{{q.mode, q.group_size, q.bits}, x.dtype(), x.shape(-1), {}},
                                  layer.n_heads,
                                  layer.n_kv_heads,
                                  layer.rope_dims,
                                  position,
                                  {},
                                  layer.k_norm ? layer.k_norm->eps : 0.0f,
                                  std::log2(layer.rope_base),
                                  layer.rope_scale};
  std::vector<mx::array> inputs{x};
  inputs.reserve(16);
  if (norm) {
    inputs.insert(inputs.end(), {norm->residual, norm->weight});
    options.product.norm_eps = norm->eps;
  }
  for (const auto* part : {&layer.q, &layer.k, &layer.v}) append_layer(*part, inputs);
  if (layer.q_norm) {
    inputs.insert(inputs.end(), {layer.q_norm->weight, layer.k_norm->weight});
    options.query_eps = layer.q_norm->eps;
  }
  auto kept = KeptInputs::take(inputs, 1, inputs.size());
  inputs.insert(inputs.end(), {keys, values});
  std::vector<mx::Shape> shapes{
      {1, layer.n_heads, 1, layer.rope_dims}, keys.shape(), values.shape()};
  if (norm) shapes.push_back(x.shape());
  auto out = mx::array::make_arrays(
      shapes, std::vector<mx::Dtype>(shapes.size(), x.dtype()),
      std::make_shared<AttentionHeads>(s, std::move(kept), std::move(options)), inputs);
  return AttentionHeadsResult{out[0], out[1], out[2], norm ? std::optional(out[3]) : std::nullopt};
}

}  // namespace zmlx::fast
