// Copyright © 2026 Apple Inc.

#include "mlx/backend/cuda/fused_kernel.h"

#include <mutex>
#include <unordered_map>

#include <fmt/format.h>

#include "mlx/backend/cuda/fused_kernel_text.h"
#include "mlx/backend/cuda/jit_module.h"
#include "mlx/backend/gpu/copy.h"

namespace mlx::core::fast {

namespace {

// A kernel that is compiled and ready to be launched.
struct Launch {
  CUfunction function = nullptr;
  dim3 grid, block;
  uint32_t shared_memory;
  bool copy_strided;
  std::vector<int> numbers;
};

std::vector<Dtype> types_of(const std::vector<array>& arrays) {
  std::vector<Dtype> types;
  for (const auto& a : arrays) {
    types.push_back(a.dtype());
  }
  return types;
}

Launch prepare(
    const CudaKernel& kernel,
    cu::Device& device,
    const std::vector<array>& inputs,
    const std::vector<array>& outputs) {
  const auto name = kernel_name(kernel);
  auto text = cuda_kernel_text(kernel, types_of(inputs), types_of(outputs));
  auto& module = cu::get_jit_module(
      device,
      fmt::format("{}_{:x}", name, std::hash<std::string>{}(text)),
      [&] { return std::make_tuple(false, text, std::vector{name}); });
  Launch launch;
  launch.function = module.get_kernel(
      name, [bytes = kernel.shared_memory](CUfunction function) {
        CHECK_CUDA_ERROR(cuFuncSetAttribute(
            function, CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, bytes));
      });
  const auto [x, y, z] = kernel.blocks;
  launch.grid = dim3(x, y, z);
  launch.block = dim3(kernel.threads);
  launch.shared_memory = kernel.shared_memory;
  launch.copy_strided = kernel.copy_strided;
  for (const auto& [_, value] : kernel.numbers) {
    launch.numbers.push_back(value);
  }
  return launch;
}

const Launch& find_launch(
    const LaunchKey& key,
    cu::Device& device,
    const std::vector<array>& inputs,
    const std::vector<array>& outputs,
    const std::function<CudaKernel()>& describe) {
  // Leaked: evaluation may go on while static objects are destroyed.
  static auto* launches =
      new std::unordered_map<LaunchKey, Launch, LaunchKeyHash>;
  static auto* mutex = new std::mutex;
  std::lock_guard lock(*mutex);
  auto& launch = (*launches)[key];
  if (!launch.function) {
    launch = prepare(describe(), device, inputs, outputs);
  }
  return launch;
}

// Kernels read 16 bytes at a time.
bool readable(const array& a) {
  return a.flags().row_contiguous && a.offset() % 16 == 0;
}

} // namespace

void launch_cuda(
    const LaunchKey& key,
    const Stream& stream,
    const std::vector<array>& inputs,
    std::vector<array>& outputs,
    const std::function<CudaKernel()>& describe) {
  auto& encoder = cu::get_command_encoder(stream);
  const auto& launch =
      find_launch(key, encoder.device(), inputs, outputs, describe);
  for (auto& out : outputs) {
    out.set_data(cu::malloc_async(out.nbytes(), encoder));
  }
  cu::KernelArgs args;
  for (const auto& in : inputs) {
    if (launch.copy_strided && !readable(in)) {
      array copy(in.shape(), in.dtype(), nullptr, {});
      copy_gpu(in, copy, CopyType::General, stream);
      encoder.add_temporary(copy);
      encoder.set_input_array(copy);
      args.append(copy);
    } else {
      encoder.set_input_array(in);
      args.append(in);
    }
  }
  for (auto& out : outputs) {
    encoder.set_output_array(out);
    args.append(out);
  }
  for (int number : launch.numbers) {
    args.append<int32_t>(number);
  }
  encoder.add_kernel_node_raw(
      launch.function,
      launch.grid,
      launch.block,
      {},
      launch.shared_memory,
      args.args());
}

} // namespace mlx::core::fast
