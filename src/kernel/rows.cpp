#include "kernel/rows.h"

#include <span>
#include <stdexcept>

#include "kernel/arrays.h"
#include "kernel/cpu_rows.h"
#include "kernel/gpu.h"
#include "mlx/backend/cpu/encoder.h"
#include "mlx/ops.h"

namespace zmlx::kernel {

namespace {

/// Shape of the elements: that of any input with one number an element.
mx::Shape element_shape(const RowFormula& formula, const std::vector<mx::array>& inputs) {
  for (size_t n = 0; n < inputs.size(); ++n) {
    if (!formula.per_row[n]) return inputs[n].shape();
  }
  throw std::logic_error("[zmlx] a row kernel has no input of elements.");
}

mx::Shape without_last(mx::Shape shape) {
  shape.pop_back();
  return shape;
}

}  // namespace

std::vector<mx::array> apply(const RowKernel::Ptr& kernel, const std::vector<mx::array>& inputs,
                             const std::vector<mx::Dtype>& types, const mx::Stream& s) {
  const auto& formula = kernel->formula();
  std::vector<mx::array> read;
  for (size_t n = 0; n < inputs.size(); ++n) {
    read.push_back(readable(inputs[n], formula.types[n], kernel->name(), s));
  }
  const auto shape = element_shape(formula, read);
  std::vector<mx::Shape> shapes;
  std::vector<mx::Dtype> written;
  for (size_t o = 0; o < types.size(); ++o) {
    shapes.push_back(formula.outputs[o].per_row ? without_last(shape) : shape);
    written.push_back(written_type(types[o]));
  }
  auto outs =
      mx::array::make_arrays(shapes, written, std::make_shared<Rows>(s, kernel, written), read);
  for (size_t o = 0; o < outs.size(); ++o) {
    if (written[o] != types[o]) outs[o] = mx::astype(outs[o], types[o], s);
  }
  return outs;
}

std::vector<mx::Shape> Rows::output_shapes(const std::vector<mx::array>& inputs) {
  const auto shape = element_shape(kernel_->formula(), inputs);
  std::vector<mx::Shape> shapes;
  for (const auto& output : kernel_->formula().outputs) {
    shapes.push_back(output.per_row ? without_last(shape) : shape);
  }
  return shapes;
}

void Rows::eval_cpu(const std::vector<mx::array>& inputs, std::vector<mx::array>& outputs) {
  const auto& formula = kernel_->formula();
  std::vector<Type> stored;
  const auto shape = element_shape(formula, inputs);
  std::span<const mx::array> beside;
  if (static_cast<size_t>(shape.back()) >= kLongRow) beside = inputs;
  for (auto& out : outputs) {
    allocate_output(out, nullptr, beside);
    stored.push_back(stored_as(out.dtype()));
  }
  ++kernel_->statistics()->calls;
  RowCall call{formula, {}, {}, {}, {}, {}};
  call.shape.assign(shape.begin(), shape.end());
  for (size_t n = 0; n < inputs.size(); ++n) {
    const auto& in = inputs[n];
    StridedArray array{in.data<char>(),
                       storage_of(in.dtype()),
                       formula.types[n],
                       {in.strides().begin(), in.strides().end()}};
    if (array.strides.empty()) array.strides.push_back(1);
    call.inputs.push_back(std::move(array));
  }
  for (auto& out : outputs) call.outputs.push_back({out.data<char>(), storage_of(out.dtype())});
  call.launch = kernel_->launches().get(call.rows() * call.length());
  auto& encoder = mx::cpu::get_command_encoder(stream());
  if (formula.splits() && call.length() >= kShortRow) {
    const auto& plan = kernel_->row_plan(stored);
    encoder.dispatch([kernel = kernel_, &plan, call = std::move(call)] { run_rows(call, plan); });
  } else {
    const auto& plan = kernel_->column_plan(stored);
    encoder.dispatch(
        [kernel = kernel_, &plan, call = std::move(call)] { run_columns(call, plan); });
  }
}

void Rows::eval_gpu(const std::vector<mx::array>& inputs, std::vector<mx::array>& outputs) {
  run_on_gpu(*kernel_, stream(), inputs, outputs);
}

std::vector<mx::array> Rows::vjp(const std::vector<mx::array>& primals,
                                 const std::vector<mx::array>& cotangents,
                                 const std::vector<int>& argnums, const std::vector<mx::array>&) {
  auto inputs = primals;
  inputs.insert(inputs.end(), cotangents.begin(), cotangents.end());
  std::vector<mx::Dtype> types;
  for (int i : argnums) types.push_back(primals[i].dtype());
  return apply(kernel_->gradient(argnums), inputs, types, stream());
}

std::vector<mx::array> Rows::jvp(const std::vector<mx::array>& primals,
                                 const std::vector<mx::array>& tangents,
                                 const std::vector<int>& argnums) {
  auto inputs = primals;
  inputs.insert(inputs.end(), tangents.begin(), tangents.end());
  return apply(kernel_->tangent(argnums), inputs, types_, stream());
}

std::pair<std::vector<mx::array>, std::vector<int>> Rows::vmap(const std::vector<mx::array>& inputs,
                                                               const std::vector<int>& axes) {
  int size = 0;
  for (size_t i = 0; i < inputs.size(); ++i) {
    if (axes[i] >= 0) size = inputs[i].shape(axes[i]);
  }
  // More rows: the mapped axis goes first.
  std::vector<mx::array> moved;
  for (size_t i = 0; i < inputs.size(); ++i) {
    if (axes[i] >= 0) {
      moved.push_back(mx::moveaxis(inputs[i], axes[i], 0, stream()));
    } else {
      auto shape = inputs[i].shape();
      shape.insert(shape.begin(), size);
      moved.push_back(mx::broadcast_to(inputs[i], shape, stream()));
    }
  }
  return {apply(kernel_, moved, types_, stream()), std::vector<int>(types_.size(), 0)};
}

}  // namespace zmlx::kernel
