#pragma once

#include <utility>
#include <vector>

#include "kernel/row_kernel.h"
#include "mlx/primitives.h"

namespace zmlx::kernel {

namespace mx = mlx::core;

/// Outputs of the types: of the inputs' shape, or of one number a row without its last axis.
std::vector<mx::array> apply(const RowKernel::Ptr& kernel, const std::vector<mx::array>& inputs,
                             const std::vector<mx::Dtype>& types, const mx::Stream& s);

/// A kernel of rows in MLX's graph. Inputs have types that kernels read.
class Rows : public mx::Primitive {
 public:
  Rows(mx::Stream stream, RowKernel::Ptr kernel, std::vector<mx::Dtype> types)
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
  std::vector<mx::Shape> output_shapes(const std::vector<mx::array>& inputs) override;
  const char* name() const override { return kernel_->name().c_str(); }
  bool is_equivalent(const Primitive& other) const override {
    const auto& same = static_cast<const Rows&>(other);
    return kernel_ == same.kernel_ && types_ == same.types_;
  }

 private:
  RowKernel::Ptr kernel_;
  std::vector<mx::Dtype> types_;
};

}  // namespace zmlx::kernel
