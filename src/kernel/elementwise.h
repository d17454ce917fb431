#pragma once

#include <memory>
#include <vector>

#include "kernel/elementwise_kernel.h"
#include "mlx/primitives.h"

namespace zmlx::kernel {

namespace mx = mlx::core;

/// The inputs in types that the kernel reads and in one shape.
std::vector<mx::array> read_by(const ElementwiseKernel& kernel,
                               const std::vector<mx::array>& inputs, const mx::Stream& s);

/// Outputs of the types, all of the shape that the inputs broadcast to.
std::vector<mx::array> apply(const ElementwiseKernel::Ptr& kernel,
                             const std::vector<mx::array>& inputs,
                             const std::vector<mx::Dtype>& types, const mx::Stream& s);

/// An elementwise kernel in MLX's graph. Inputs have one shape and types that kernels read.
class Elementwise : public mx::Primitive {
 public:
  Elementwise(mx::Stream stream, ElementwiseKernel::Ptr kernel, std::vector<mx::Dtype> types)
      : Primitive(stream), kernel_(std::move(kernel)), types_(std::move(types)) {}

  void eval_cpu(const std::vector<mx::array>& inputs, std::vector<mx::array>& outputs) override;
  void eval_gpu(const std::vector<mx::array>& inputs, std::vector<mx::array>& outputs) override;
  std::vector<mx::array> vjp(const std::vector<mx::array>& primals,
                             const std::vector<mx::array>& cotangents,
                             const std::vector<int>& argnums,
                             const std::vector<mx::array>& outputs) override;
  std::vector<mx::array> jvp(const std::vector<mx::array>& primals,
                             const std::vector<mx::array>& tangents,
                             const std::vector<int>& argnums) override;
  std::pair<std::vector<mx::array>, std::vector<int>> vmap(const std::vector<mx::array>& inputs,
                                                           const std::vector<int>& axes) override;
  std::vector<mx::Shape> output_shapes(const std::vector<mx::array>& inputs) override {
    return std::vector<mx::Shape>(types_.size(), inputs[0].shape());
  }
  const char* name() const override { return kernel_->name().c_str(); }
  bool is_equivalent(const Primitive& other) const override {
    const auto& same = static_cast<const Elementwise&>(other);
    return kernel_ == same.kernel_ && types_ == same.types_;
  }

 private:
  ElementwiseKernel::Ptr kernel_;
  std::vector<mx::Dtype> types_;
};

}  // namespace zmlx::kernel
