#include "nn.h"

#include <climits>

namespace nb = nanobind;
namespace mx = mlx::core;

namespace zmlx::python {

nb::object name(const char* text) { return nb::steal(PyUnicode_InternFromString(text)); }

namespace {

// What every call needs of Python; never freed, because it may be asked for until the very end.
struct Known {
  nb::object nn = nb::module_::import_("mlx.nn");
  nb::object linear = nn.attr("Linear");
  nb::object quantized_linear = nn.attr("QuantizedLinear");
  nb::object rms_norm = nn.attr("RMSNorm");
  nb::object rope = nn.attr("RoPE");
  nb::object conv1d = nn.attr("Conv1d");
  nb::handle array = nb::type<mx::array>();

  nb::object weight = name("weight"), bias = name("bias");
  nb::object scales = name("scales"), biases = name("biases");
  nb::object group_size = name("group_size"), bits = name("bits"), mode = name("mode");
  nb::object eps = name("eps");
  nb::object dims = name("dims"), traditional = name("traditional");
  nb::object base = name("base"), scale = name("scale");
  nb::object stride = name("stride"), padding = name("padding");
  nb::object dilation = name("dilation"), groups = name("groups");
};

const Known& known() {
  static const Known* const k = new Known;
  return *k;
}

bool is_exactly(nb::handle object, nb::handle type) {
  return object.is_valid() && reinterpret_cast<PyObject*>(Py_TYPE(object.ptr())) == type.ptr();
}

// An optional entry of a module. False if there is something that is no array.
bool read_optional(nb::handle module, nb::handle name, std::optional<mx::array>& out) {
  nb::handle value = entry(module, name);
  if (!value.is_valid() || value.is_none()) {
    return true;
  }
  out = read_array(value);
  return out.has_value();
}

}  // namespace

nb::object attribute(nb::handle owner, nb::handle name) {
  PyObject* value = PyObject_GetAttr(owner.ptr(), name.ptr());
  if (value == nullptr) {
    PyErr_Clear();
  }
  return nb::steal(value);
}

std::optional<mx::array> read_array(nb::handle value) {
  if (!is_exactly(value, known().array)) {
    return std::nullopt;
  }
  return *nb::inst_ptr<mx::array>(value);
}

std::optional<int> read_int(nb::handle value) {
  if (!value.is_valid() || !PyLong_CheckExact(value.ptr())) {
    return std::nullopt;
  }
  int overflow = 0;
  const long n = PyLong_AsLongAndOverflow(value.ptr(), &overflow);
  if (overflow != 0 || n > INT_MAX || n < INT_MIN) {
    return std::nullopt;
  }
  return static_cast<int>(n);
}

std::optional<float> read_float(nb::handle value) {
  if (value.is_valid() && PyFloat_CheckExact(value.ptr())) {
    return static_cast<float>(PyFloat_AS_DOUBLE(value.ptr()));
  }
  if (auto n = read_int(value)) {
    return static_cast<float>(*n);
  }
  return std::nullopt;
}

nb::handle entry(nb::handle module, nb::handle name) {
  if (!module.is_valid() || !PyDict_Check(module.ptr())) {
    return nb::handle();
  }
  PyObject* value = PyDict_GetItemWithError(module.ptr(), name.ptr());
  if (value == nullptr) {
    PyErr_Clear();
  }
  return value;
}

std::optional<mx::array> read_input(nb::handle x) {
  auto result = read_array(x);
  if (!result || result->ndim() != 3) {
    return std::nullopt;
  }
  const auto type = result->dtype();
  if (type != mx::float32 && type != mx::float16 && type != mx::bfloat16) {
    return std::nullopt;
  }
  return result;
}

std::optional<Linear> Linear::read(nb::handle module) {
  const auto& k = known();
  const bool quantized = is_exactly(module, k.quantized_linear);
  if (!quantized && !is_exactly(module, k.linear)) {
    return std::nullopt;
  }
  auto weight = read_array(entry(module, k.weight));
  if (!weight) {
    return std::nullopt;
  }
  Linear layer(std::move(*weight));
  if (!read_optional(module, k.bias, layer.bias_)) {
    return std::nullopt;
  }
  if (!quantized) {
    return layer;
  }
  layer.scales_ = read_array(entry(module, k.scales));
  const auto group_size = read_int(attribute(module, k.group_size));
  const auto bits = read_int(attribute(module, k.bits));
  const nb::object mode = attribute(module, k.mode);
  if (!layer.scales_ || !read_optional(module, k.biases, layer.biases_) || !group_size || !bits ||
      !mode.is_valid() || !PyUnicode_CheckExact(mode.ptr())) {
    return std::nullopt;
  }
  layer.group_size_ = *group_size;
  layer.bits_ = *bits;
  layer.mode_ = nb::borrow<nb::str>(mode).c_str();
  return layer;
}

mx::array Linear::operator()(const mx::array& x) const {
  if (scales_) {
    auto y = mx::quantized_matmul(x, weight_, *scales_, biases_, /* transpose = */ true,
                                  group_size_, bits_, mode_);
    return bias_ ? mx::add(y, *bias_) : y;
  }
  auto transposed = mx::transpose(weight_);
  return bias_ ? mx::addmm(*bias_, x, transposed) : mx::matmul(x, transposed);
}

std::optional<RMSNorm> RMSNorm::read(nb::handle module) {
  const auto& k = known();
  if (!is_exactly(module, k.rms_norm)) {
    return std::nullopt;
  }
  auto weight = read_array(entry(module, k.weight));
  const auto eps = read_float(attribute(module, k.eps));
  if (!weight || !eps) {
    return std::nullopt;
  }
  return RMSNorm{std::move(*weight), *eps};
}

mx::array RMSNorm::operator()(const mx::array& x) const {
  return mx::fast::rms_norm(x, weight, eps);
}

std::optional<RoPE> RoPE::read(nb::handle module) {
  const auto& k = known();
  if (!is_exactly(module, k.rope)) {
    return std::nullopt;
  }
  const auto dims = read_int(attribute(module, k.dims));
  const nb::object traditional = attribute(module, k.traditional);
  const auto base = read_float(attribute(module, k.base));
  const auto scale = read_float(attribute(module, k.scale));
  if (!dims || !traditional.is_valid() || !PyBool_Check(traditional.ptr()) || !base || !scale) {
    return std::nullopt;
  }
  return RoPE{*dims, traditional.ptr() == Py_True, *base, *scale};
}

mx::array RoPE::operator()(const mx::array& x, const mx::array& offset) const {
  return mx::fast::rope(x, dims, traditional, base, scale, offset);
}

std::optional<Conv1d> Conv1d::read(nb::handle module) {
  const auto& k = known();
  if (!is_exactly(module, k.conv1d)) {
    return std::nullopt;
  }
  auto weight = read_array(entry(module, k.weight));
  const auto stride = read_int(attribute(module, k.stride));
  const auto padding = read_int(attribute(module, k.padding));
  const auto dilation = read_int(attribute(module, k.dilation));
  const auto groups = read_int(attribute(module, k.groups));
  if (!weight || !stride || !padding || !dilation || !groups) {
    return std::nullopt;
  }
  Conv1d layer{std::move(*weight), std::nullopt, *stride, *padding, *dilation, *groups};
  if (!read_optional(module, k.bias, layer.bias)) {
    return std::nullopt;
  }
  return layer;
}

mx::array Conv1d::operator()(const mx::array& x) const {
  auto y = mx::conv1d(x, weight, stride, padding, dilation, groups);
  return bias ? mx::add(y, *bias) : y;
}

}  // namespace zmlx::python
