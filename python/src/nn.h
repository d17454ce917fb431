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
#include "zmlx/moe_block.h"

namespace zmlx::python {

// A Python string that dictionaries find by its address.
nanobind::object name(const char* text);

// An attribute, or null; never an exception.
nanobind::object attribute(nanobind::handle owner, nanobind::handle name);

// Values of exactly the Python type that MLX's classes use; false for any other.
bool read(nanobind::handle value, std::optional<mlx::core::array>& out);
bool read(nanobind::handle value, int& out);
bool read(nanobind::handle value, float& out);
bool read(nanobind::handle value, bool& out);
bool read(nanobind::handle value, std::string& out);

// An entry of a module that is a dictionary, as `mlx.nn.Module` is; null if there is none.
nanobind::handle entry(nanobind::handle module, nanobind::handle name);

// The same for what a layer is called with: (batch, length, width), of a float type.
bool read_input(nanobind::handle value, std::optional<mlx::core::array>& out);

// `nn.Linear` or `nn.QuantizedLinear`.
class Linear {
 public:
  // False for anything else; so in all of these.
  bool read(nanobind::handle module);
  mlx::core::array operator()(const mlx::core::array& x) const;
  zmlx::fast::Linear weights() const;

 private:
  std::optional<mlx::core::array> weight_, bias_;
  // Those of a quantized layer.
  std::optional<mlx::core::array> scales_, biases_;
  int group_size_ = 0, bits_ = 0;
  std::string mode_;
};

// `nn.RMSNorm`.
class RMSNorm {
 public:
  bool read(nanobind::handle module);
  mlx::core::array operator()(const mlx::core::array& x) const;
  const mlx::core::array& weight() const { return *weight_; }
  float eps() const { return eps_; }

 private:
  std::optional<mlx::core::array> weight_;
  float eps_ = 0;
};

// `nn.RoPE`.
class RoPE {
 public:
  bool read(nanobind::handle module);
  mlx::core::array operator()(const mlx::core::array& x, const mlx::core::array& offset) const;
  int dims() const { return dims_; }
  bool traditional() const { return traditional_; }
  float base() const { return base_; }
  float scale() const { return scale_; }

 private:
  int dims_ = 0;
  bool traditional_ = false;
  float base_ = 0, scale_ = 0;
};

// `nn.Conv1d`.
class Conv1d {
 public:
  bool read(nanobind::handle module);
  mlx::core::array operator()(const mlx::core::array& x) const;
  // Its weights (C, taps, 1), if each channel is convolved by itself and nothing else happens.
  const mlx::core::array* depthwise_taps() const;

 private:
  std::optional<mlx::core::array> weight_, bias_;
  int stride_ = 0, padding_ = 0, dilation_ = 0, groups_ = 0;
};

}  // namespace zmlx::python
