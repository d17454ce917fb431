#include "kernel/tune.h"

#include <sstream>

#include "cpu/parallel.h"
#include "kernel/definition.h"
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

}  // namespace kernel

AutotuneResult Kernel::tune(const std::vector<mx::array>& inputs) const {
  mx::eval(inputs);
  const auto candidates = kernel::launch_candidates();
  std::ostringstream key;
  key << definition_->kind() << " " << definition_->formula();
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
  const auto result = autotune(
      candidates.size(),
      [&](size_t c) {
        launches.set(size, candidates[c]);
        auto out = call(inputs);
        mx::eval(out);
      },
      options);
  launches.set(size, candidates[result.best]);
  return result;
}

}  // namespace zmlx
