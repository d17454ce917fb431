#include "fast/step_primitive.h"

#include <stdexcept>
#include <string>

#include "cuda/host/api.h"

namespace zmlx::fast {

KeptInputs KeptInputs::take(std::vector<mx::array>& inputs, size_t begin, size_t end) {
  Kept kept;
  kept.reserve(end - begin);
  std::vector<mx::array> rest;
  rest.reserve(inputs.size());
  for (size_t i = 0; i < inputs.size(); ++i) {
    // A transformation has to find what it traces among the inputs.
    if (i >= begin && i < end && inputs[i].is_available() && !inputs[i].is_tracer()) {
      kept.emplace_back(i, std::move(inputs[i]));
    } else {
      rest.push_back(std::move(inputs[i]));
    }
  }
  inputs = std::move(rest);
  KeptInputs result;
  if (!kept.empty()) result.kept_ = std::make_shared<const Kept>(std::move(kept));
  return result;
}

std::vector<mx::array> KeptInputs::with(std::span<const mx::array> rest) const {
  if (!kept_) return {rest.begin(), rest.end()};
  std::vector<mx::array> all;
  all.reserve(kept_->size() + rest.size());
  auto next = rest.begin();
  for (const auto& [position, array] : *kept_) {
    while (all.size() < position) all.push_back(*next++);
    all.push_back(array);
  }
  all.insert(all.end(), next, rest.end());
  return all;
}

void StepPrimitive::eval_cpu(const std::vector<mx::array>&, std::vector<mx::array>&) {
  throw std::runtime_error("[" + std::string(name()) + "] has no kernel for this device.");
}

void StepPrimitive::launch(const LaunchKey& key, std::span<const mx::array> inputs,
                           std::vector<mx::array>& outputs,
                           const std::function<CudaKernel()>& describe,
                           std::initializer_list<int> numbers) {
  launch_cuda(key, stream(), inputs, outputs, describe, numbers);
  if (kept_.empty()) return;
  const auto& api = cuda::api();
  api.add_completed_handler(api.get_command_encoder(stream()), [kept = kept_.kept_] {});
}

}  // namespace zmlx::fast
