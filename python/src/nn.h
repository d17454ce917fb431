// MLX's layers (mlx.nn), read from the Python modules that hold them.
//
// A module is read at every call, so that weights that were loaded or updated since are seen. What
// is read is exact: a class that is not MLX's own, or an attribute of another kind than MLX gives
// it, is no layer here. Applying a layer builds the operations that its `__call__` builds.

#pragma once

#include <nanobind/nanobind.h>

#include <optional>
#include <string>

#include "mlx/mlx.h"

namespace zmlx::python {

// A Python string that dictionaries find by its address.
nanobind::object name(const char* text);

// An attribute, or null; never an exception.
nanobind::object attribute(nanobind::handle owner, nanobind::handle name);

// Values of exactly the Python type that MLX's classes use.
std::optional<mlx::core::array> read_array(nanobind::handle value);
std::optional<int> read_int(nanobind::handle value);
std::optional<float> read_float(nanobind::handle value);

// An entry of a module that is a dictionary, as `mlx.nn.Module` is; null if there is none.
nanobind::handle entry(nanobind::handle module, nanobind::handle name);

// Whether `x` is what a layer is called with: an `mx.array` itself, (batch, length, width), of a
// float type.
std::optional<mlx::core::array> read_input(nanobind::handle x);

// `nn.Linear` or `nn.QuantizedLinear`.
class Linear {
 public:
  static std::optional<Linear> read(nanobind::handle module);
  mlx::core::array operator()(const mlx::core::array& x) const;

 private:
  explicit Linear(mlx::core::array weight) : weight_(std::move(weight)) {}

  mlx::core::array weight_;
  std::optional<mlx::core::array> bias_;
  // Those of a quantized layer.
  std::optional<mlx::core::array> scales_;
  std::optional<mlx::core::array> biases_;
  int group_size_ = 0;
  int bits_ = 0;
  std::string mode_;
};

// `nn.RMSNorm`.
struct RMSNorm {
  static std::optional<RMSNorm> read(nanobind::handle module);
  mlx::core::array operator()(const mlx::core::array& x) const;

  mlx::core::array weight;
  float eps;
};

// `nn.RoPE`.
struct RoPE {
  static std::optional<RoPE> read(nanobind::handle module);
  mlx::core::array operator()(const mlx::core::array& x, const mlx::core::array& offset) const;

  int dims;
  bool traditional;
  float base;
  float scale;
};

// `nn.Conv1d`.
struct Conv1d {
  static std::optional<Conv1d> read(nanobind::handle module);
  mlx::core::array operator()(const mlx::core::array& x) const;

  mlx::core::array weight;
  std::optional<mlx::core::array> bias;
  int stride, padding, dilation, groups;
};

}  // namespace zmlx::python
