#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "mlx/array.h"
#include "mlx/utils.h"
#include "zmlx/api.h"

/// Kernels from formulas: an expression in C, written once, becomes a differentiable operation of
/// MLX with a kernel for the CPU (a vectorised evaluator; no compiler at run time), CUDA and Metal.
///
///     auto mish = zmlx::elementwise("x * tanh(log(1 + exp(x)))");
///     mx::array y = mish(x);
///
/// Formulas are of float32 numbers whatever the arrays hold: each result is rounded once. Kernels
/// are lazy like all of MLX, and work under its vjp, jvp, vmap and compile. docs/kernels.md has the
/// language.
namespace zmlx {

namespace mx = mlx::core;

namespace kernel {
class Definition;
}

/// A kernel: a function of arrays that copies share.
class ZMLX_API Kernel {
 public:
  explicit Kernel(std::shared_ptr<const kernel::Definition> definition);

  /// @param inputs  one for each of `inputs()`; an elementwise kernel broadcasts them.
  /// @return the result, of the type that the inputs promote to.
  /// @throws std::invalid_argument if their number or a type does not fit.
  mx::array call(const std::vector<mx::array>& inputs, mx::StreamOrDevice s = {}) const;

  template <typename... Arrays>
  mx::array operator()(const mx::array& first, const Arrays&... rest) const {
    return call({first, rest...});
  }

  const std::string& name() const;
  /// Names of the inputs, in the order of arguments.
  const std::vector<std::string>& inputs() const;
  /// The formula after simplification, its derivatives, and how the CPU runs it, for people.
  std::string explain() const;

  const std::shared_ptr<const kernel::Definition>& definition() const { return definition_; }

 private:
  std::shared_ptr<const kernel::Definition> definition_;
};

struct ElementwiseOptions {
  /// In errors and the registry; by default made from the formula.
  std::string name;
  /// Names in the order of arguments; by default all free names, in order of appearance.
  std::vector<std::string> inputs;
  /// The derivative times the cotangent `g`, one for each input, instead of the derived one. Of the
  /// inputs, and with `use_output` of the result `y`.
  std::vector<std::string> grad_expr;
  bool use_output = true;
  /// What `T` means in the formula, and the type of inputs in it: float32 (the default, also for
  /// float16 and bfloat16, which are computed in float32), int32 or uint32.
  std::optional<mx::Dtype> compute_dtype;
};

/// An operation on each element.
/// @throws std::invalid_argument with the place if the expression is not one.
ZMLX_API Kernel elementwise(const std::string& expression, const ElementwiseOptions& options = {});

/// What was made of formulas in this process. Equal definitions are one entry.
struct KernelRecord {
  std::string name, kind, formula;
  int64_t definitions;  ///< how often it was asked for
  int64_t calls;
  double define_seconds;  ///< reading the formula
  double compile_seconds;  ///< everything that later calls do without
  int64_t compilations;
};
ZMLX_API std::vector<KernelRecord> kernel_registry();
ZMLX_API void clear_kernel_registry();

}  // namespace zmlx
