#include "kernel/tune.h"

#include <sstream>

#include "cpu/parallel.h"
#include "kernel/definition.h"
#include "mlx/device.h"
#include "mlx/transforms.h"
#include "zmlx/kernel.h"

namespace zmlx {

namespace kernel {

std::vector<CpuLaunch> launch_candidates() {
  std::vector<CpuLaunch> candidates{{}};
  for (int threads : {cpu::max_threads(), 1}) {
    for (int block : {16 << 10, 64 << 10, 256 << 10}) candidates.push_back({block, threads});
    if (threads == 1) break;
  }
  return candidates;
}

std::vector<GpuLaunch> gpu_launch_candidates(bool rows) {
  std::vector<GpuLaunch> candidates{{}};
  if (rows) {
    for (int rows_of_group : {1, 2, 4, 8, 16}) candidates.push_back({32, rows_of_group});
  }
  for (int threads : {64, 128, 256, 512, 1024}) {
    for (int vectors : {1, 2, 4}) {
      candidates.push_back({threads, vectors});
      if (rows) break;  // what a thread holds follows from how many there are
    }
  }
  return candidates;
}

}  // namespace kernel

AutotuneResult Kernel::tune(const std::vector<mx::array>& inputs) const {
  mx::eval(inputs);
  const bool gpu = mx::default_device() == mx::Device::gpu;
  const auto cpu_candidates = kernel::launch_candidates();
  const auto gpu_candidates = kernel::gpu_launch_candidates(definition_->kind() != "elementwise");
  std::ostringstream key;
  key << (gpu ? "GPU " : "") << definition_->kind() << " " << definition_->formula();
  size_t size = 0;
  for (const auto& in : inputs) {
    size = std::max(size, in.size());
    key << ", " << in.dtype();
  }
  key << ", rows of " << (inputs.empty() || inputs[0].ndim() == 0 ? 1 : inputs[0].shape(-1))
      << ", size 2^" << std::bit_width(size);
  AutotuneOptions options;
  options.key = key.str();
  auto& launches = definition_->launches();
  const auto choose = [&](size_t c) {
    gpu ? launches.set(size, gpu_candidates[c]) : launches.set(size, cpu_candidates[c]);
  };
  const auto result = autotune(
      gpu ? gpu_candidates.size() : cpu_candidates.size(),
      [&](size_t c) {
        choose(c);
        auto out = call(inputs);
        mx::eval(out);
      },
      options);
  choose(result.best);
  return result;
}

}  // namespace zmlx
