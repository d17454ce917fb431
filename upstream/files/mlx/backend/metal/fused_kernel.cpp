// Copyright © 2026 Apple Inc.

#include "mlx/backend/metal/fused_kernel.h"

#include <mutex>
#include <unordered_map>

#include <fmt/format.h>

#include "mlx/backend/gpu/copy.h"
#include "mlx/backend/metal/fused_kernel_text.h"
#include "mlx/backend/metal/utils.h"

namespace mlx::core::fast {

namespace {

// A kernel that is compiled and ready to be launched.
struct Launch {
  MTL::ComputePipelineState* kernel = nullptr;
  MTL::Size threadgroups, threads;
  bool copy_strided;
};

Launch prepare(
    const MetalKernel& kernel,
    metal::Device& device,
    const std::vector<array>& inputs,
    const std::vector<array>& outputs) {
  const auto input_types = types_of(inputs), output_types = types_of(outputs);
  const auto name = metal_kernel_name(kernel, input_types, output_types);
  const auto text = metal_kernel_text(kernel, input_types, output_types);
  auto library = device.get_library(
      fmt::format("{}_{:x}", name, std::hash<std::string>{}(text)),
      [&] { return metal::utils() + text; });
  Launch launch;
  launch.kernel = device.get_kernel(name, library);
  const auto [x, y, z] = kernel.threadgroups;
  launch.threadgroups = MTL::Size(x, y, z);
  launch.threads = MTL::Size(kernel.threads, 1, 1);
  launch.copy_strided = kernel.copy_strided;
  const auto most = launch.kernel->maxTotalThreadsPerThreadgroup();
  if (static_cast<size_t>(kernel.threads) > most) {
    throw std::runtime_error(
        fmt::format(
            "[{}] needs {} threads in a threadgroup but can have {}.",
            name,
            kernel.threads,
            most));
  }
  return launch;
}

const Launch& find_launch(
    const LaunchKey& key,
    metal::Device& device,
    const std::vector<array>& inputs,
    const std::vector<array>& outputs,
    const std::function<MetalKernel()>& describe) {
  // Leaked: evaluation may go on while static objects are destroyed.
  static auto* launches =
      new std::unordered_map<LaunchKey, Launch, LaunchKeyHash>;
  static auto* mutex = new std::mutex;
  std::lock_guard lock(*mutex);
  auto& launch = (*launches)[key];
  if (!launch.kernel) {
    launch = prepare(describe(), device, inputs, outputs);
  }
  return launch;
}

} // namespace

void launch_metal(
    const LaunchKey& key,
    const Stream& stream,
    const std::vector<array>& inputs,
    std::vector<array>& outputs,
    const std::function<MetalKernel()>& describe) {
  auto& device = metal::device(stream.device);
  const auto& launch = find_launch(key, device, inputs, outputs, describe);
  for (auto& out : outputs) {
    out.set_data(allocator::malloc(out.nbytes()));
  }
  std::vector<array> copies;
  copies.reserve(inputs.size());
  auto& encoder = metal::get_command_encoder(stream);
  std::vector<const array*> read;
  for (const auto& in : inputs) {
    if (launch.copy_strided && !in.flags().row_contiguous) {
      copies.push_back(contiguous_copy_gpu(in, stream));
      read.push_back(&copies.back());
    } else {
      read.push_back(&in);
    }
  }
  encoder.set_compute_pipeline_state(launch.kernel);
  int index = 0;
  for (const auto* in : read) {
    encoder.set_input_array(*in, index++);
  }
  for (auto& out : outputs) {
    encoder.set_output_array(out, index++);
  }
  encoder.dispatch_threadgroups(launch.threadgroups, launch.threads);
  encoder.add_temporaries(std::move(copies));
}

} // namespace mlx::core::fast
