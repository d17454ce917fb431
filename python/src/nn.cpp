#include "nn.h"

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
  const nb::handle value = entry(module, name);
  return !value.is_valid() || value.is_none() || read(value, out);
}

}  // namespace

nb::object attribute(nb::handle owner, nb::handle name) {
  // Without the detour that `nn.Module.__getattr__` makes of every look-up.
  PyObject* value = PyObject_GenericGetAttr(owner.ptr(), name.ptr());
  if (value == nullptr) {
    PyErr_Clear();
  }
  return nb::steal(value);
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

bool read(nb::handle value, std::optional<mx::array>& out) {
  if (!is_exactly(value, known().array)) {
    return false;
  }
  out = *nb::inst_ptr<mx::array>(value);
  return true;
}

bool read(nb::handle value, int& out) {
  if (!value.is_valid() || !PyLong_CheckExact(value.ptr())) {
    return false;
  }
  int overflow = 0;
  const long n = PyLong_AsLongAndOverflow(value.ptr(), &overflow);
  out = static_cast<int>(n);
  return overflow == 0 && n == out;
}

bool read(nb::handle value, float& out) {
  if (value.is_valid() && PyFloat_CheckExact(value.ptr())) {
    out = static_cast<float>(PyFloat_AS_DOUBLE(value.ptr()));
    return true;
  }
  int n = 0;
  if (!read(value, n)) {
    return false;
  }
  out = static_cast<float>(n);
  return true;
}

bool read(nb::handle value, bool& out) {
  out = value.ptr() == Py_True;
  return out || value.ptr() == Py_False;
}

bool read(nb::handle value, std::string& out) {
  if (!value.is_valid() || !PyUnicode_CheckExact(value.ptr())) {
    return false;
  }
  out = nb::borrow<nb::str>(value).c_str();
  return true;
}

bool read_input(nb::handle value, std::optional<mx::array>& out) {
  if (!python::read(value, out) || out->ndim() != 3) {
    return false;
  }
  const auto type = out->dtype();
  return type == mx::float32 || type == mx::float16 || type == mx::bfloat16;
}

bool Linear::read(nb::handle module) {
  const auto& k = known();
  const bool quantized = is_exactly(module, k.quantized_linear);
  if (!quantized && !is_exactly(module, k.linear)) {
    return false;
  }
  if (!python::read(entry(module, k.weight), weight_) || !read_optional(module, k.bias, bias_)) {
    return false;
  }
  return !quantized || (python::read(entry(module, k.scales), scales_) &&
                        read_optional(module, k.biases, biases_) &&
                        python::read(attribute(module, k.group_size), group_size_) &&
                        python::read(attribute(module, k.bits), bits_) &&
                        python::read(attribute(module, k.mode), mode_));
}

mx::array Linear::operator()(const mx::array& x) const {
  if (scales_) {
    auto y = mx::quantized_matmul(x, *weight_, *scales_, biases_, /* transpose = */ true,
                                  group_size_, bits_, mode_);
    return bias_ ? mx::add(y, *bias_) : y;
  }
  auto transposed = mx::transpose(*weight_);
  return bias_ ? mx::addmm(*bias_, x, transposed) : mx::matmul(x, transposed);
}

zmlx::fast::Linear Linear::weights() const {
  return {*weight_, scales_, biases_, bias_, group_size_, bits_, mode_};
}

bool RMSNorm::read(nb::handle module) {
  const auto& k = known();
  return is_exactly(module, k.rms_norm) && python::read(entry(module, k.weight), weight_) &&
         python::read(attribute(module, k.eps), eps_);
}

mx::array RMSNorm::operator()(const mx::array& x) const {
  return mx::fast::rms_norm(x, weight_, eps_);
}

bool RoPE::read(nb::handle module) {
  const auto& k = known();
  return is_exactly(module, k.rope) && python::read(attribute(module, k.dims), dims_) &&
         python::read(attribute(module, k.traditional), traditional_) &&
         python::read(attribute(module, k.base), base_) &&
         python::read(attribute(module, k.scale), scale_);
}

mx::array RoPE::operator()(const mx::array& x, const mx::array& offset) const {
  return mx::fast::rope(x, dims_, traditional_, base_, scale_, offset);
}

bool Conv1d::read(nb::handle module) {
  const auto& k = known();
  return is_exactly(module, k.conv1d) && python::read(entry(module, k.weight), weight_) &&
         read_optional(module, k.bias, bias_) &&
         python::read(attribute(module, k.stride), stride_) &&
         python::read(attribute(module, k.padding), padding_) &&
         python::read(attribute(module, k.dilation), dilation_) &&
         python::read(attribute(module, k.groups), groups_);
}

const mx::array* Conv1d::depthwise_taps() const {
  const bool plain = !bias_ && stride_ == 1 && padding_ == 0 && dilation_ == 1;
  return plain && weight_->ndim() == 3 && groups_ == weight_->shape(0) ? &*weight_ : nullptr;
}

mx::array Conv1d::operator()(const mx::array& x) const {
  auto y = mx::conv1d(x, *weight_, stride_, padding_, dilation_, groups_);
  return bias_ ? mx::add(y, *bias_) : y;
}

}  // namespace zmlx::python
