#include "kernel/elementwise.h"

#include "kernel/arrays.h"
#include "kernel/cpu_elementwise.h"
#include "kernel/gpu.h"
#include "mlx/backend/cpu/encoder.h"
#include "mlx/ops.h"

namespace zmlx::kernel {

std::vector<mx::array> read_by(const ElementwiseKernel& kernel,
                               const std::vector<mx::array>& inputs, const mx::Stream& s) {
  std::vector<mx::array> read;
  read.reserve(inputs.size());
  bool one_shape = true;
  for (size_t i = 0; i < inputs.size(); ++i) {
    read.push_back(readable(inputs[i], kernel.formula().types[i], kernel.name(), s));
    one_shape = one_shape && read[i].shape() == read[0].shape();
  }
  return one_shape ? read : mx::broadcast_arrays(read, s);
}

std::vector<mx::array> apply(const ElementwiseKernel::Ptr& kernel,
                             const std::vector<mx::array>& inputs,
                             const std::vector<mx::Dtype>& types, const mx::Stream& s) {
  auto read = read_by(*kernel, inputs, s);
  std::vector<mx::Dtype> written;
  for (auto type : types) written.push_back(written_type(type));
  const auto shape = read[0].shape();
  auto primitive = std::make_shared<Elementwise>(s, kernel, written);
  if (types.size() == 1) {
    mx::array out(shape, written[0], std::move(primitive), std::move(read));
    return {written[0] == types[0] ? out : mx::astype(out, types[0], s)};
  }
  auto outs =
      mx::array::make_arrays(std::vector<mx::Shape>(types.size(), shape), written, primitive, read);
  for (size_t i = 0; i < outs.size(); ++i) {
    if (written[i] != types[i]) outs[i] = mx::astype(outs[i], types[i], s);
  }
  return outs;
}

void Elementwise::eval_cpu(const std::vector<mx::array>& inputs, std::vector<mx::array>& outputs) {
  // With several outputs one could overwrite what another still reads.
  const auto* donor = outputs.size() == 1 ? donor_for(outputs[0], inputs) : nullptr;
  std::vector<Type> stored;
  for (auto& out : outputs) {
    allocate_output(out, donor, inputs);
    stored.push_back(stored_as(out.dtype()));
  }
  ++kernel_->statistics()->calls;
  const auto& program = kernel_->program(stored);
  ElementwiseCall call{program, {}, {}, {}, kernel_->launches().get(outputs[0].size())};
  call.shape.assign(outputs[0].shape().begin(), outputs[0].shape().end());
  for (int number : program.inputs) {
    const auto& in = inputs[number];
    call.inputs.push_back({in.data<char>(),
                           storage_of(in.dtype()),
                           kernel_->formula().types[number],
                           {in.strides().begin(), in.strides().end()}});
  }
  for (auto& out : outputs) call.outputs.push_back({out.data<char>(), storage_of(out.dtype())});
  // The kernel owns the program, and may outlive this primitive.
  mx::cpu::get_command_encoder(stream()).dispatch(
      [kernel = kernel_, call = std::move(call)] { run_elementwise(call); });
}

void Elementwise::eval_gpu(const std::vector<mx::array>& inputs, std::vector<mx::array>& outputs) {
  run_on_gpu(*kernel_, stream(), inputs, outputs);
}

std::vector<mx::array> Elementwise::vjp(const std::vector<mx::array>& primals,
                                        const std::vector<mx::array>& cotangents,
                                        const std::vector<int>& argnums,
                                        const std::vector<mx::array>& outputs) {
  auto inputs = primals;
  if (kernel_->gradient_uses_outputs()) {
    inputs.insert(inputs.end(), outputs.begin(), outputs.end());
  }
  inputs.insert(inputs.end(), cotangents.begin(), cotangents.end());
  std::vector<mx::Dtype> types;
  for (int i : argnums) types.push_back(primals[i].dtype());
  return apply(kernel_->gradient(argnums), inputs, types, stream());
}

std::vector<mx::array> Elementwise::jvp(const std::vector<mx::array>& primals,
                                        const std::vector<mx::array>& tangents,
                                        const std::vector<int>& argnums) {
  auto inputs = primals;
  inputs.insert(inputs.end(), tangents.begin(), tangents.end());
  return apply(kernel_->tangent(argnums), inputs, types_, stream());
}

std::pair<std::vector<mx::array>, std::vector<int>> Elementwise::vmap(
    const std::vector<mx::array>& inputs, const std::vector<int>& axes) {
  // The mapped axis first; inputs without it broadcast.
  std::vector<mx::array> moved;
  for (size_t i = 0; i < inputs.size(); ++i) {
    moved.push_back(axes[i] >= 0 ? mx::moveaxis(inputs[i], axes[i], 0, stream())
                                 : mx::expand_dims(inputs[i], 0, stream()));
  }
  return {apply(kernel_, moved, types_, stream()), std::vector<int>(types_.size(), 0)};
}

}  // namespace zmlx::kernel
