#pragma once

#include <functional>
#include <initializer_list>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "fast/cuda_kernel.h"
#include "mlx/primitives.h"

namespace zmlx::fast {

/// Inputs of a primitive that are in memory when it is built, as a model's weights are, kept out of
/// MLX's graph. For each input of each node MLX's evaluation takes the host's time three times
/// over: in its search of the graph, for the dependencies of a CUDA graph's node, and to keep the
/// buffer until the GPU is done.
class KeptInputs {
 public:
  KeptInputs() = default;

  /// Takes those of `inputs` from `begin` to `end` that are in memory, and that nothing traces, out
  /// of it.
  static KeptInputs take(std::vector<mx::array>& inputs, size_t begin, size_t end);

  /// All inputs in the order in which they were given, for the others, `rest`.
  std::vector<mx::array> with(std::span<const mx::array> rest) const;

  bool empty() const { return !kept_; }

 private:
  using Kept = std::vector<std::pair<size_t, mx::array>>;  // and where they belong
  std::shared_ptr<const Kept> kept_;

  friend class StepPrimitive;
};

/// A primitive of one decoded token, which only GPUs evaluate and nobody differentiates: who builds
/// one composes MLX's ops instead wherever its obstacle is not empty.
class StepPrimitive : public mx::Primitive {
 public:
  StepPrimitive(mx::Stream s, KeptInputs kept) : Primitive(s), kept_(std::move(kept)) {}
  void eval_cpu(const std::vector<mx::array>&, std::vector<mx::array>&) override;

 protected:
  /// All inputs of the kernel; `inputs` are those that the graph has of them.
  std::vector<mx::array> all_inputs(std::span<const mx::array> inputs) const {
    return kept_.with(inputs);
  }

  /// `launch_cuda`, and holds what was kept until the GPU is done.
  void launch(const LaunchKey& key, std::span<const mx::array> inputs,
              std::vector<mx::array>& outputs, const std::function<CudaKernel()>& describe,
              std::initializer_list<int> numbers = {});

 private:
  KeptInputs kept_;
};

}  // namespace zmlx::fast
