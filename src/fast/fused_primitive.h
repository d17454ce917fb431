#pragma once

#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "fast/backend.h"
#include "mlx/primitives.h"
#include "mlx/transforms.h"

namespace zmlx::fast {

namespace mx = mlx::core;

/// A primitive with a fallback: the same result composed of MLX's own ops. MLX's own base for this,
/// `fast::Custom`, is not exported from its wheels, so its behaviour is restated here.
class FusedPrimitive : public mx::Primitive {
 public:
  using Primitive::Primitive;

  /// The same outputs from the same inputs, composed of MLX's ops.
  virtual std::vector<mx::array> fallback(const std::vector<mx::array>& inputs) const = 0;

  void eval_gpu(const std::vector<mx::array>& inputs, std::vector<mx::array>& outputs) final {
    backend_of(stream()) == Backend::metal ? eval_metal(inputs, outputs)
                                           : eval_cuda(inputs, outputs);
  }

  /// Differentiates the fallback, and that only by what is asked for: weights and indices are
  /// integers, which MLX refuses to differentiate by.
  std::vector<mx::array> vjp(const std::vector<mx::array>& primals,
                             const std::vector<mx::array>& cotangents,
                             const std::vector<int>& argnums,
                             const std::vector<mx::array>&) override {
    std::vector<mx::array> wanted;
    for (int i : argnums) wanted.push_back(primals[i]);
    auto composed = [&](const std::vector<mx::array>& values) {
      auto inputs = primals;
      for (size_t i = 0; i < argnums.size(); ++i) inputs[argnums[i]] = values[i];
      return fallback(inputs);
    };
    return mx::vjp(composed, wanted, cotangents).second;
  }

  std::vector<mx::array> jvp(const std::vector<mx::array>&, const std::vector<mx::array>&,
                             const std::vector<int>&) override {
    throw std::invalid_argument("[" + std::string(name()) +
                                "] has no forward-mode derivative (jvp), as gather_qmm has none.");
  }

 protected:
  virtual void eval_cuda(const std::vector<mx::array>&, std::vector<mx::array>&) { no_kernel(); }
  virtual void eval_metal(const std::vector<mx::array>&, std::vector<mx::array>&) { no_kernel(); }

 private:
  [[noreturn]] void no_kernel() {
    throw std::runtime_error("[" + std::string(name()) + "] has no kernel for this device.");
  }
};

}  // namespace zmlx::fast
