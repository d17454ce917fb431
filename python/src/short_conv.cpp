// The short convolution of LFM2 as one call, like the attention beside it.

#include <nanobind/nanobind.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>

#include <utility>
#include <vector>

#include "nn.h"
#include "zmlx/decode_step.h"

namespace nb = nanobind;
namespace mx = mlx::core;
using namespace nb::literals;

namespace zmlx::python {

namespace {

// mlx-lm's `ArraysCache`, of unpadded sequences: a list of arrays.
class ArraysCache {
 public:
  explicit ArraysCache(nb::handle cache) : cache_(cache) {}

  // The first array. False if there is none yet, or if sequences are padded.
  bool read(std::optional<mx::array>& state) {
    static const Names& names = *new Names;
    arrays_ = attribute(cache_, names.cache);
    return attribute(cache_, names.lengths).is_none() &&
           attribute(cache_, names.left_padding).is_none() && arrays_.is_valid() &&
           PyList_CheckExact(arrays_.ptr()) && PyList_GET_SIZE(arrays_.ptr()) > 0 &&
           python::read(PyList_GET_ITEM(arrays_.ptr(), 0), state) && state->ndim() == 3;
  }

  void write(const mx::array& state) {
    nb::object value = nb::cast(state);
    PyList_SetItem(arrays_.ptr(), 0, value.release().ptr());
  }

 private:
  struct Names {
    nb::object lengths = name("lengths"), left_padding = name("left_padding");
    nb::object cache = name("cache");
  };

  nb::handle cache_;
  nb::object arrays_;
};

class ShortConv {
 public:
  ShortConv(const nb::dict& roles, nb::object arrays_cache)
      : arrays_cache_(std::move(arrays_cache)) {
    const auto role = [&](const char* key) {
      return name(nb::cast<std::string>(roles[key]).c_str());
    };
    in_proj_ = role("in_proj");
    conv_ = role("conv");
    out_proj_ = role("out_proj");
    length_ = role("L_cache");
  }

  // The output of the module, or None where its own `__call__` has to be taken: without a state
  // yet, with padding, and where `obstacle` says so. Then nothing has happened yet.
  nb::object call(nb::handle module, nb::handle x, nb::handle mask, nb::handle cache) const {
    std::optional<mx::array> input, state;
    if (!read_input(x, input) || !mask.is_none() || cache.type().ptr() != arrays_cache_.ptr()) {
      return nb::none();
    }
    ArraysCache arrays(cache);
    Module m;
    if (!arrays.read(state) || read(module, m) != nullptr) {
      return nb::none();
    }
    if (const auto conv = one_token(m, *input, {}, *state)) {
      arrays.write(conv->state);
      return nb::cast(m.out_proj(conv->y));
    }
    const auto parts = mx::split(m.in_proj(*input), 3, -1);
    const auto Bx = mx::concatenate({*state, mx::multiply(parts[0], parts[2])}, 1);
    arrays.write(mx::slice(Bx, mx::Shape{0, 1 - m.length, 0}, Bx.shape(), mx::Shape(3, 1)));
    return nb::cast(m.out_proj(mx::multiply(parts[1], m.conv(Bx))));
  }

  // The same for the RMS norm of x + residual: the output and the sum. None if that is no call for
  // one kernel.
  std::optional<std::pair<mx::array, mx::array>> call_after_sum(
      nb::handle module, const mx::array& x, const mx::array& residual, const mx::array& weight,
      float eps, nb::handle mask, nb::handle cache) const {
    std::optional<mx::array> state;
    if (x.ndim() != 3 || x.size() != static_cast<size_t>(x.shape(-1)) || !mask.is_none() ||
        cache.type().ptr() != arrays_cache_.ptr()) {
      return std::nullopt;
    }
    ArraysCache arrays(cache);
    Module m;
    if (!arrays.read(state) || read(module, m) != nullptr) {
      return std::nullopt;
    }
    const auto conv = one_token(m, x, zmlx::fast::AddNorm{residual, weight, eps}, *state);
    if (!conv) {
      return std::nullopt;
    }
    arrays.write(conv->state);
    return std::pair{m.out_proj(conv->y), *conv->sum};
  }

  // Why a module has to be called itself, or "".
  std::string obstacle(nb::handle module) const {
    Module m;
    const char* reason = read(module, m);
    return reason != nullptr ? reason : "";
  }

 private:
  struct Module {
    Linear in_proj, out_proj;
    Conv1d conv;
    int length = 0;
  };

  // Up to the last product as one kernel; nothing if none takes it.
  static std::optional<zmlx::fast::ShortConvResult> one_token(
      const Module& m, const mx::array& x, const std::optional<zmlx::fast::AddNorm>& norm,
      const mx::array& state) {
    const auto* taps = m.conv.depthwise_taps();
    if (taps == nullptr || taps->shape(1) != m.length || x.shape(0) != 1 || x.shape(1) != 1) {
      return std::nullopt;
    }
    return zmlx::fast::short_conv(x, norm, m.in_proj.weights(), *taps, state);
  }

  // Reads a module as it is now. Null, or why it has to be called itself.
  const char* read(nb::handle module, Module& m) const {
    if (!m.in_proj.read(entry(module, in_proj_)) || !m.out_proj.read(entry(module, out_proj_))) {
      return "a projection is not nn.Linear or nn.QuantizedLinear";
    }
    if (!m.conv.read(entry(module, conv_)) || !python::read(attribute(module, length_), m.length)) {
      return "its convolution is not nn.Conv1d";
    }
    return nullptr;
  }

  nb::object in_proj_, conv_, out_proj_, length_;
  nb::object arrays_cache_;
};

}  // namespace

void init_short_conv(nb::module_& m) {
  nb::class_<ShortConv>(m, "ShortConv", "A short convolution of LFM2 as one call.")
      .def(nb::init<const nb::dict&, nb::object>(), "roles"_a, "arrays_cache"_a,
           R"(What is known of a class of short convolutions.

Args:
    roles: the attributes that play each part: "in_proj", "conv", "out_proj", "L_cache".
    arrays_cache: mlx-lm's class ``ArraysCache``.
)")
      .def("__call__", &ShortConv::call, "module"_a, "x"_a.none(), "mask"_a.none(),
           "cache"_a.none(), "What the module computes, or None if it has to be called itself.")
      .def("after_sum", &ShortConv::call_after_sum, "module"_a, "x"_a, "residual"_a, "weight"_a,
           "eps"_a, "mask"_a.none(), "cache"_a.none(),
           "`(output, x + residual)` of the module called with the RMS norm of that sum, for one "
           "token that one kernel takes; else None.")
      .def("obstacle", &ShortConv::obstacle, "module"_a,
           "Why a module has to be called itself, or ''.");
}

}  // namespace zmlx::python
