#include "kernel/elementwise_kernel.h"

#include <stdexcept>

#include "kernel/derivative.h"

namespace zmlx::kernel {

namespace {
std::atomic<int64_t> kernels{0};
}

ElementwiseKernel::ElementwiseKernel(std::string name, ElementwiseFormula formula,
                                     std::shared_ptr<Statistics> statistics,
                                     std::optional<UserGradient> gradient)
    : name_(std::move(name)),
      formula_(std::move(formula)),
      gradient_(std::move(gradient)),
      statistics_(std::move(statistics)),
      number_(++kernels) {}

const Program& ElementwiseKernel::program(const std::vector<Type>& outputs) const {
  std::lock_guard lock(mutex_);
  auto& program = programs_[outputs];
  if (!program) {
    const Timer timer(statistics_->compile_nanoseconds);
    ++statistics_->compilations;
    Tree tree = formula_.tree;
    std::vector<NodeId> roots;
    for (size_t i = 0; i < outputs.size(); ++i) {
      roots.push_back(tree.cast(formula_.roots[i], outputs[i]));
    }
    program = std::make_unique<const Program>(
        compile(tree, roots, std::vector<bool>(formula_.names.size(), true)));
  }
  return *program;
}

template <typename Make>
ElementwiseKernel::Ptr ElementwiseKernel::derived(std::map<std::vector<int>, Ptr>& kept,
                                                  const std::vector<int>& by,
                                                  const Make& make) const {
  std::lock_guard lock(mutex_);
  auto& kernel = kept[by];
  if (!kernel) {
    const Timer timer(statistics_->compile_nanoseconds);
    ++statistics_->compilations;
    try {
      kernel = make();
    } catch (const std::length_error& error) {
      throw std::invalid_argument("[" + name_ + "] the derivative is too large: " + error.what() +
                                  ".");
    }
  }
  return kernel;
}

ElementwiseFormula ElementwiseKernel::with_variables(const char* letter, size_t count) const {
  ElementwiseFormula more = formula_;
  for (size_t i = 0; i < count; ++i) {
    more.names.push_back(letter + (count > 1 ? std::to_string(i + 1) : std::string()));
    more.types.push_back(Type::float32);
  }
  more.roots.clear();
  return more;
}

ElementwiseKernel::Ptr ElementwiseKernel::gradient(const std::vector<int>& by) const {
  return derived(gradients_, by, [&] {
    const size_t inputs = formula_.names.size();
    if (gradient_) {
      ElementwiseFormula chosen{gradient_->tree, formula_.names, formula_.types, {}};
      if (gradient_->uses_output) {
        chosen.names.push_back("y");
        chosen.types.push_back(Type::float32);
      }
      chosen.names.push_back("g");
      chosen.types.push_back(Type::float32);
      for (int i : by) chosen.roots.push_back(gradient_->roots[i]);
      return std::make_shared<const ElementwiseKernel>(name_ + "_vjp", std::move(chosen),
                                                       statistics_);
    }
    auto result = with_variables("g", formula_.roots.size());
    auto& tree = result.tree;
    for (int i : by) {
      std::vector<NodeId> rates(result.names.size(), -1);
      rates[i] = tree.constant(1);
      const auto slopes = derivatives(tree, formula_.roots, rates);
      NodeId sum = -1;
      for (size_t o = 0; o < slopes.size(); ++o) {
        const NodeId cotangent = tree.variable(static_cast<int>(inputs + o));
        sum = add_terms(tree, sum, multiply_terms(tree, slopes[o], cotangent));
      }
      result.roots.push_back(sum < 0 ? tree.constant(0) : sum);
    }
    return std::make_shared<const ElementwiseKernel>(name_ + "_vjp", std::move(result),
                                                     statistics_);
  });
}

ElementwiseKernel::Ptr ElementwiseKernel::tangent(const std::vector<int>& by) const {
  return derived(tangents_, by, [&] {
    auto result = with_variables("t", by.size());
    auto& tree = result.tree;
    const size_t inputs = formula_.names.size();
    std::vector<NodeId> rates(result.names.size(), -1);
    for (size_t k = 0; k < by.size(); ++k) {
      rates[by[k]] = tree.variable(static_cast<int>(inputs + k));
    }
    if (gradient_) {
      // The derivative times the cotangent is the derivative times the tangent: both are of one
      // element.
      NodeId sum = -1;
      for (size_t k = 0; k < by.size(); ++k) {
        std::vector<NodeId> variables;
        for (size_t i = 0; i < inputs; ++i) {
          variables.push_back(tree.variable(static_cast<int>(i), formula_.types[i]));
        }
        if (gradient_->uses_output) variables.push_back(formula_.roots[0]);
        variables.push_back(rates[by[k]]);
        sum = add_terms(tree, sum,
                        copy(gradient_->tree, {gradient_->roots[by[k]]}, tree, variables)[0]);
      }
      result.roots.push_back(sum);
    } else {
      for (NodeId rate : derivatives(tree, formula_.roots, rates)) {
        result.roots.push_back(rate < 0 ? tree.constant(0) : rate);
      }
    }
    return std::make_shared<const ElementwiseKernel>(name_ + "_jvp", std::move(result),
                                                     statistics_);
  });
}

}  // namespace zmlx::kernel
