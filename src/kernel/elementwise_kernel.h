#pragma once

#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "kernel/definition.h"
#include "kernel/program.h"

namespace zmlx::kernel {

/// Several expressions of the same inputs, each giving one output.
struct ElementwiseFormula {
  Tree tree;
  std::vector<std::string> names;  ///< of the inputs: variable n of the tree is input n
  std::vector<Type> types;
  std::vector<NodeId> roots;
};

/// A derivative that the user wrote: of the inputs, then `y` if it is used, then `g`.
struct UserGradient {
  Tree tree;
  std::vector<NodeId> roots;  ///< one for each input
  bool uses_output;
};

/// A formula with what is made of it when it is first needed.
class ElementwiseKernel {
 public:
  ElementwiseKernel(std::string name, ElementwiseFormula formula,
                    std::shared_ptr<Statistics> statistics,
                    std::optional<UserGradient> gradient = std::nullopt);

  /// The program for the CPU, with each output as a value of a type.
  const Program& program(const std::vector<Type>& outputs) const;

  using Ptr = std::shared_ptr<const ElementwiseKernel>;
  /// Derivatives by some inputs, times cotangents: of the inputs, then the outputs if
  /// `gradient_uses_outputs`, then a cotangent for each output.
  Ptr gradient(const std::vector<int>& by) const;
  bool gradient_uses_outputs() const { return gradient_ && gradient_->uses_output; }
  /// The change of the outputs when some inputs change: of the inputs, then a tangent for each of
  /// `by`.
  Ptr tangent(const std::vector<int>& by) const;

  const std::string& name() const { return name_; }
  const ElementwiseFormula& formula() const { return formula_; }
  /// Tells kernels apart where they are compiled for a GPU.
  int64_t number() const { return number_; }
  const std::shared_ptr<Statistics>& statistics() const { return statistics_; }
  TunedLaunches& launches() const { return launches_; }

 private:
  template <typename Make>
  Ptr derived(std::map<std::vector<int>, Ptr>& kept, const std::vector<int>& by,
              const Make& make) const;
  ElementwiseFormula with_variables(const char* letter, size_t count) const;

  std::string name_;
  ElementwiseFormula formula_;
  std::optional<UserGradient> gradient_;
  std::shared_ptr<Statistics> statistics_;
  int64_t number_;
  mutable TunedLaunches launches_;
  mutable std::mutex mutex_;
  mutable std::map<std::vector<Type>, std::unique_ptr<const Program>> programs_;
  mutable std::map<std::vector<int>, Ptr> gradients_, tangents_;
};

}  // namespace zmlx::kernel
