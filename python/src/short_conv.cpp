// The short convolution of LFM2 as one call, like the attention beside it.

#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>

#include <utility>
#include <vector>

#include "nn.h"

namespace nb = nanobind;
namespace mx = mlx::core;
using namespace nb::literals;

namespace zmlx::python {

namespace {

// mlx-lm's `ArraysCache`, of unpadded sequences: a list of arrays.
class ArraysCache {
 public:
  explicit ArraysCache(nb::handle cache) : cache_(cache) {}

  // The first array; nothing if there is none yet, or if sequences are padded.
  std::optional<mx::array> read() {
    static const Names& names = *new Names;
    const nb::object lengths = attribute(cache_, names.lengths);
    const nb::object left_padding = attribute(cache_, names.left_padding);
    arrays_ = attribute(cache_, names.cache);
    if (!lengths.is_none() || !left_padding.is_none() || !arrays_.is_valid() ||
        !PyList_CheckExact(arrays_.ptr()) || PyList_GET_SIZE(arrays_.ptr()) == 0) {
      return std::nullopt;
    }
    return read_array(PyList_GET_ITEM(arrays_.ptr(), 0));
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
    const auto input = read_input(x);
    if (!input || !mask.is_none() || cache.type().ptr() != arrays_cache_.ptr()) {
      return nb::none();
    }
    ArraysCache arrays(cache);
    const auto state = arrays.read();
    const char* obstacle = "";
    const auto m = read(module, obstacle);
    if (!state || state->ndim() != 3 || !m) {
      return nb::none();
    }
    const auto parts = mx::split(m->in_proj(*input), 3, -1);
    const auto Bx = mx::concatenate({*state, mx::multiply(parts[0], parts[2])}, 1);
    arrays.write(mx::slice(Bx, mx::Shape{0, 1 - m->length, 0}, Bx.shape(), mx::Shape(3, 1)));
    return nb::cast(m->out_proj(mx::multiply(parts[1], m->conv(Bx))));
  }

  // Why a module has to be called itself, or "".
  std::string obstacle(nb::handle module) const {
    const char* obstacle = "";
    read(module, obstacle);
    return obstacle;
  }

 private:
  struct Module {
    Linear in_proj, out_proj;
    Conv1d conv;
    int length;
  };

  std::optional<Module> read(nb::handle module, const char*& obstacle) const {
    auto in_proj = Linear::read(entry(module, in_proj_));
    auto out_proj = Linear::read(entry(module, out_proj_));
    if (!in_proj || !out_proj) {
      obstacle = "a projection is not nn.Linear or nn.QuantizedLinear";
      return std::nullopt;
    }
    auto conv = Conv1d::read(entry(module, conv_));
    const auto length = read_int(attribute(module, length_));
    if (!conv || !length) {
      obstacle = "its convolution is not nn.Conv1d";
      return std::nullopt;
    }
    return Module{std::move(*in_proj), std::move(*out_proj), std::move(*conv), *length};
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
      .def("__call__", &ShortConv::call, "module"_a, "x"_a, "mask"_a.none(), "cache"_a.none(),
           "What the module computes, or None if it has to be called itself.")
      .def("obstacle", &ShortConv::obstacle, "module"_a,
           "Why a module has to be called itself, or ''.");
}

}  // namespace zmlx::python
