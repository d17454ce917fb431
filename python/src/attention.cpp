// An attention module of mlx-lm as one call: the MLX operations that its `__call__` builds, in its
// order, without Python in between. One token on a CUDA GPU takes one kernel up to its attention,
// which returns the bits of those operations. Only the host's time differs; what is computed is the
// same.

#include <nanobind/nanobind.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>

#include <tuple>
#include <utility>

#include "nn.h"
#include "zmlx/decode_step.h"

namespace nb = nanobind;
namespace mx = mlx::core;
using namespace nb::literals;

namespace zmlx::python {

namespace {

// mlx-lm's `KVCache`: keys and values in arrays with room for further tokens.
class KVCache {
 public:
  explicit KVCache(nb::handle cache) : cache_(nb::borrow(cache)) {}

  // False if the cache holds something else than its class puts there.
  bool read() {
    held_keys_ = attribute(cache_, names().keys);
    held_values_ = attribute(cache_, names().values);
    if (!python::read(attribute(cache_, names().offset), offset_)) {
      return false;
    }
    const bool empty = held_keys_.is_none() && held_values_.is_none();
    return empty || (is_held(held_keys_) && is_held(held_values_));
  }

  int offset() const { return offset_; }

  // `KVCache.update_and_fetch`. That is called itself where the arrays are too short.
  std::pair<mx::array, mx::array> update_and_fetch(const mx::array& keys, const mx::array& values) {
    const int stop = offset_ + keys.shape(2);
    if (held_keys_.is_none() || stop > held(held_keys_).shape(2)) {
      nb::object pair = cache_.attr("update_and_fetch")(nb::cast(keys), nb::cast(values));
      return {nb::cast<mx::array>(pair[0]), nb::cast<mx::array>(pair[1])};
    }
    nb::setattr(cache_, names().offset, nb::int_(stop));
    write(held(held_keys_), keys, stop);
    write(held(held_values_), values, stop);
    if (stop < held(held_keys_).shape(2)) {
      return {first(held(held_keys_), stop), first(held(held_values_), stop)};
    }
    return {held(held_keys_), held(held_values_)};
  }

  // The arrays, if the next token has room in them; else null.
  const mx::array* keys() const { return has_room() ? &held(held_keys_) : nullptr; }
  const mx::array* values() const { return has_room() ? &held(held_values_) : nullptr; }

  // `KVCache.update_and_fetch` of one token that `keys` and `values` hold already.
  std::pair<mx::array, mx::array> advance(const mx::array& keys, const mx::array& values) {
    const int stop = offset_ + 1;
    nb::setattr(cache_, names().offset, nb::int_(stop));
    held(held_keys_).overwrite_descriptor(keys);
    held(held_values_).overwrite_descriptor(values);
    if (stop == keys.shape(2)) return {keys, values};
    return {first(keys, stop), first(values, stop)};
  }

 private:
  bool has_room() const {
    return !held_keys_.is_none() && held(held_keys_).shape(2) > offset_ &&
           held(held_values_).shape(2) > offset_;
  }

  struct Names {
    nb::object offset = name("offset"), keys = name("keys"), values = name("values");
  };
  static const Names& names() {
    static const Names* const n = new Names;
    return *n;
  }

  static bool is_held(nb::handle object) {
    std::optional<mx::array> array;
    return python::read(object, array) && array->ndim() == 4;
  }
  static mx::array& held(nb::handle object) { return *nb::inst_ptr<mx::array>(object); }

  // held[..., offset:stop, :] = update. The Python object that the cache holds gets the new value,
  // as an assignment in Python does it: a second reference to the old one would make MLX copy the
  // whole array instead of writing into it.
  void write(mx::array& held, const mx::array& update, int stop) const {
    mx::Shape starts(4, 0), stops = held.shape(), strides(4, 1);
    starts[2] = offset_;
    stops[2] = stop;
    held.overwrite_descriptor(
        mx::slice_update(held, update, std::move(starts), std::move(stops), std::move(strides)));
  }

  // held[..., :stop, :]
  static mx::array first(const mx::array& held, int stop) {
    mx::Shape stops = held.shape();
    stops[2] = stop;
    return mx::slice(held, mx::Shape(4, 0), std::move(stops), mx::Shape(4, 1));
  }

  nb::object cache_;
  nb::object held_keys_;
  nb::object held_values_;
  int offset_ = 0;
};

// Where queries and keys are normalised.
enum class Norms { none, heads, width };

// What one call needs of a module.
struct Module {
  Linear q_proj, k_proj, v_proj, o_proj;
  RMSNorm q_norm, k_norm;
  RoPE rope;
  int n_heads = 0, n_kv_heads = 0;
  float scale = 0;
  Norms norms = Norms::none;
};

mx::array heads_first(const mx::array& x) { return mx::transpose(x, {0, 2, 1, 3}); }

// What `attend` does for one token up to its attention, as one kernel: the queries, and the sum if
// there is a norm of one before it. Nothing if no kernel takes it.
std::optional<zmlx::fast::AttentionHeadsResult> one_token(
    const Module& m, const mx::array& x, const std::optional<zmlx::fast::AddNorm>& norm,
    KVCache* cache) {
  if (cache == nullptr || m.norms == Norms::width || x.shape(0) != 1 || x.shape(1) != 1 ||
      cache->keys() == nullptr) {
    return std::nullopt;
  }
  zmlx::fast::AttentionInputs layer{m.q_proj.weights(),
                                    m.k_proj.weights(),
                                    m.v_proj.weights(),
                                    {},
                                    {},
                                    m.n_heads,
                                    m.n_kv_heads,
                                    m.rope.dims(),
                                    m.rope.traditional(),
                                    m.rope.base(),
                                    m.rope.scale()};
  if (m.norms == Norms::heads) {
    layer.q_norm = {m.q_norm.weight(), m.q_norm.eps()};
    layer.k_norm = {m.k_norm.weight(), m.k_norm.eps()};
  }
  return zmlx::fast::attention_heads(x, norm, layer, *cache->keys(), *cache->values(),
                                     cache->offset());
}

mx::array finish(const Module& m, const mx::array& queries, const mx::array& keys,
                 const mx::array& values, const std::string& mask_mode,
                 const std::optional<mx::array>& mask) {
  auto output =
      mx::fast::scaled_dot_product_attention(queries, keys, values, m.scale, mask_mode, mask);
  return m.o_proj(mx::reshape(heads_first(output), {queries.shape(0), queries.shape(2), -1}));
}

mx::array attend(const Module& m, const mx::array& x, const std::string& mask_mode,
                 const std::optional<mx::array>& mask, KVCache* cache) {
  if (const auto heads = one_token(m, x, {}, cache)) {
    const auto [keys, values] = cache->advance(heads->keys, heads->values);
    return finish(m, heads->queries, keys, values, mask_mode, mask);
  }
  const int B = x.shape(0), L = x.shape(1);
  auto queries = m.q_proj(x), keys = m.k_proj(x), values = m.v_proj(x);
  if (m.norms == Norms::width) {
    queries = m.q_norm(queries);
    keys = m.k_norm(keys);
  }
  queries = mx::reshape(queries, {B, L, m.n_heads, -1});
  keys = mx::reshape(keys, {B, L, m.n_kv_heads, -1});
  if (m.norms == Norms::heads) {
    queries = m.q_norm(queries);
    keys = m.k_norm(keys);
  }
  const mx::array offset(cache != nullptr ? cache->offset() : 0);
  queries = m.rope(heads_first(queries), offset);
  keys = m.rope(heads_first(keys), offset);
  values = heads_first(mx::reshape(values, {B, L, m.n_kv_heads, -1}));
  if (cache != nullptr) {
    std::tie(keys, values) = cache->update_and_fetch(keys, values);
  }
  return finish(m, queries, keys, values, mask_mode, mask);
}

// The attributes of a class of attention modules that play each part, and the call.
class Attention {
 public:
  Attention(const nb::dict& roles, const std::string& norms, nb::object kv_cache)
      : norms_(norms == "heads"   ? Norms::heads
               : norms == "width" ? Norms::width
                                  : Norms::none),
        kv_cache_(std::move(kv_cache)) {
    const auto role = [&](const char* key) {
      return roles.contains(key) ? name(nb::cast<std::string>(roles[key]).c_str()) : nb::object();
    };
    q_proj_ = role("q_proj");
    k_proj_ = role("k_proj");
    v_proj_ = role("v_proj");
    o_proj_ = role("o_proj");
    q_norm_ = role("q_norm");
    k_norm_ = role("k_norm");
    use_norms_ = role("use_qk_norm");
    rope_ = role("rope");
    n_heads_ = role("n_heads");
    n_kv_heads_ = role("n_kv_heads");
    scale_ = role("scale");
  }

  // The output of the module, or None where its own `__call__` has to be taken; then nothing has
  // happened yet.
  nb::object call(nb::handle module, nb::handle x, nb::handle mask, nb::handle cache) const {
    std::optional<mx::array> input, mask_array;
    std::string mask_mode;
    if (!read_input(x, input) || !read_mask(mask, mask_mode, mask_array)) {
      return nb::none();
    }
    std::optional<KVCache> kv_cache;
    if (!cache.is_none()) {
      if (cache.type().ptr() != kv_cache_.ptr() || !kv_cache.emplace(cache).read()) {
        return nb::none();
      }
    }
    Module m;
    if (read(module, m) != nullptr) {
      return nb::none();
    }
    return nb::cast(attend(m, *input, mask_mode, mask_array, kv_cache ? &*kv_cache : nullptr));
  }

  // The same for the RMS norm of x + residual: the output and the sum. None if that is no call for
  // one kernel.
  std::optional<std::pair<mx::array, mx::array>> call_after_sum(
      nb::handle module, const mx::array& x, const mx::array& residual, const mx::array& weight,
      float eps, nb::handle mask, nb::handle cache) const {
    std::optional<mx::array> mask_array;
    std::string mask_mode;
    if (x.ndim() != 3 || x.size() != static_cast<size_t>(x.shape(-1)) ||
        !read_mask(mask, mask_mode, mask_array) || cache.type().ptr() != kv_cache_.ptr()) {
      return std::nullopt;
    }
    KVCache kv_cache(cache);
    Module m;
    if (!kv_cache.read() || read(module, m) != nullptr) {
      return std::nullopt;
    }
    const auto heads = one_token(m, x, zmlx::fast::AddNorm{residual, weight, eps}, &kv_cache);
    if (!heads) {
      return std::nullopt;
    }
    const auto [keys, values] = kv_cache.advance(heads->keys, heads->values);
    return std::pair{finish(m, heads->queries, keys, values, mask_mode, mask_array), *heads->sum};
  }

  // Why a module has to be called itself, or "".
  std::string obstacle(nb::handle module) const {
    Module m;
    const char* reason = read(module, m);
    return reason != nullptr ? reason : "";
  }

 private:
  static bool read_mask(nb::handle mask, std::string& mode, std::optional<mx::array>& array) {
    if (mask.is_none()) {
      return true;
    }
    if (python::read(mask, mode)) {
      return mode == "causal";
    }
    return python::read(mask, array);
  }

  // Reads a module as it is now. Null, or why it has to be called itself.
  const char* read(nb::handle module, Module& m) const {
    if (!m.q_proj.read(entry(module, q_proj_)) || !m.k_proj.read(entry(module, k_proj_)) ||
        !m.v_proj.read(entry(module, v_proj_)) || !m.o_proj.read(entry(module, o_proj_))) {
      return "a projection is not nn.Linear or nn.QuantizedLinear";
    }
    if (!m.rope.read(entry(module, rope_))) {
      return "its positions are not encoded by nn.RoPE";
    }
    if (!python::read(attribute(module, n_heads_), m.n_heads) ||
        !python::read(attribute(module, n_kv_heads_), m.n_kv_heads) ||
        !python::read(attribute(module, scale_), m.scale)) {
      return "its numbers of heads or its scale are not plain numbers";
    }
    bool normalises = norms_ != Norms::none;
    if (use_norms_.is_valid() && !python::read(attribute(module, use_norms_), normalises)) {
      return "whether it normalises queries and keys is not a plain truth value";
    }
    if (normalises) {
      m.norms = norms_;
      if (!m.q_norm.read(entry(module, q_norm_)) || !m.k_norm.read(entry(module, k_norm_))) {
        return "its norms are not nn.RMSNorm";
      }
    }
    return nullptr;
  }

  nb::object q_proj_, k_proj_, v_proj_, o_proj_;
  nb::object q_norm_, k_norm_, use_norms_, rope_, n_heads_, n_kv_heads_, scale_;
  Norms norms_;
  nb::object kv_cache_;
};

}  // namespace

void init_attention(nb::module_& m) {
  nb::class_<Attention>(m, "Attention", "An attention module of mlx-lm as one call.")
      .def(nb::init<const nb::dict&, const std::string&, nb::object>(), "roles"_a, "norms"_a,
           "kv_cache"_a,
           R"(What is known of a class of attention modules.

Args:
    roles: the attributes that play each part: "q_proj", "k_proj", "v_proj", "o_proj", "rope",
        "n_heads", "n_kv_heads", "scale"; with norms "q_norm" and "k_norm"; "use_qk_norm" if an
        attribute turns the norms on.
    norms: "none", "heads" (each head on its own) or "width" (all heads at once).
    kv_cache: mlx-lm's class ``KVCache``.
)")
      .def("__call__", &Attention::call, "module"_a, "x"_a.none(), "mask"_a.none(),
           "cache"_a.none(), "What the module computes, or None if it has to be called itself.")
      .def("after_sum", &Attention::call_after_sum, "module"_a, "x"_a, "residual"_a, "weight"_a,
           "eps"_a, "mask"_a.none(), "cache"_a.none(),
           "`(output, x + residual)` of the module called with the RMS norm of that sum, for one "
           "token that one kernel takes; else None.")
      .def("obstacle", &Attention::obstacle, "module"_a,
           "Why a module has to be called itself, or ''.");
}

}  // namespace zmlx::python
