#include "kernel/gpu.h"

#include <limits>
#include <optional>
#include <stdexcept>

#include "fast/cuda_path.h"
#include "kernel/gpu_kernel.h"
#include "mlx/allocator.h"

namespace zmlx::kernel {

namespace {

/// Parameters that a launch takes besides sizes.
constexpr size_t kMostArrays = 28;

void check(const std::string& name, const std::vector<mx::array>& inputs,
           const std::vector<mx::array>& outputs) {
  if (inputs.size() + outputs.size() > kMostArrays) {
    throw std::runtime_error("[" + name + "] on a GPU kernels take at most " +
                             std::to_string(kMostArrays) + " inputs and outputs.");
  }
  for (const auto* arrays : {&inputs, &outputs}) {
    for (const auto& a : *arrays) {
      if (a.size() > static_cast<size_t>(std::numeric_limits<int>::max() - 4096)) {
        throw std::runtime_error("[" + name + "] on a GPU arrays may have at most 2^31 elements.");
      }
    }
  }
}

bool empty(std::vector<mx::array>& outputs) {
  if (outputs[0].size() > 0) return false;
  for (auto& out : outputs) out.set_data(mx::allocator::malloc(0));
  return true;
}

/// A launch that compiles is counted, with all of its time.
template <typename Kernel>
void run(const Kernel& kernel, const mx::Stream& stream, const std::vector<mx::array>& inputs,
         std::vector<mx::array>& outputs) {
  if (empty(outputs)) return;
  check(kernel.name(), inputs, outputs);
  auto& statistics = *kernel.statistics();
  ++statistics.calls;
  const bool cuda = fast::cuda_compute_capability(stream.device.index) > 0;
  if (const auto obstacle = cuda ? fast::cuda_device_obstacle(stream) : ""; !obstacle.empty()) {
    throw std::runtime_error("[" + kernel.name() + "] no kernel for this GPU: " + obstacle + ".");
  }
  std::vector<mx::Dtype> types;
  for (const auto& out : outputs) types.push_back(out.dtype());
  const auto launch = launch_of(kernel, inputs, types, cuda);
  fast::KeyBuilder key;
  for (int64_t part : launch.key) key.add(part);
  key.add(stream.index, stream.device.index, launch.threads, launch.groups);
  std::optional<Timer> timer;
  const auto count = [&] {
    ++statistics.compilations;
    timer.emplace(statistics.compile_nanoseconds);
  };
  if (cuda) {
    for (const auto& [name, value] : launch.numbers) key.add(value);
    fast::launch_cuda(key.key(), stream, launch.inputs, outputs, [&] {
      count();
      return cuda_kernel_of(launch);
    });
  } else {
    auto arguments = launch.inputs;
    const auto numbers = metal_numbers(launch);
    arguments.emplace_back(numbers.begin(), mx::Shape{static_cast<int>(numbers.size())}, mx::int32);
    fast::launch_metal(key.key(), stream, arguments, outputs, [&] {
      count();
      return metal_kernel_of(launch);
    });
  }
}

}  // namespace

void run_on_gpu(const ElementwiseKernel& kernel, const mx::Stream& stream,
                const std::vector<mx::array>& inputs, std::vector<mx::array>& outputs) {
  run(kernel, stream, inputs, outputs);
}

void run_on_gpu(const RowKernel& kernel, const mx::Stream& stream,
                const std::vector<mx::array>& inputs, std::vector<mx::array>& outputs) {
  run(kernel, stream, inputs, outputs);
}

}  // namespace zmlx::kernel
