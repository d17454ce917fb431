#pragma once

#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "mlx/array.h"
#include "mlx/utils.h"
#include "zmlx/api.h"
#include "zmlx/autotune.h"

/// Kernels from formulas: an expression in C, written once, becomes a differentiable operation of
/// MLX with a kernel for the CPU (a vectorised evaluator; no compiler at run time), CUDA and Metal.
///
///     auto mish = zmlx::elementwise("x * tanh(log(1 + exp(x)))");
///     mx::array y = mish(x);
///
/// Formulas are of float32 numbers whatever the arrays hold, unless they say otherwise: each result
/// is rounded once. Kernels are lazy like all of MLX, and work under its vjp, jvp, vmap and
/// compile. docs/kernels.md has the language.
namespace zmlx {

namespace mx = mlx::core;

namespace kernel {
class Definition;
}

/// A kernel as Metal gets it for given arrays.
struct MetalLaunch {
  std::string name;                          ///< of the kernel function
  std::string header;                        ///< what formulas call
  std::string text;                          ///< the formula's functions and the kernel
  std::vector<std::string> inputs, outputs;  ///< of the buffers, which lie in this order
  /// What the last of the inputs holds, as int32, with names.
  std::vector<std::pair<std::string, int>> numbers;
  int threadgroups, threads;  ///< of the grid, of a threadgroup
};

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
  /// The code for "metal" or "cuda", for inputs of the type.
  /// @param of  "value", or "vjp" for the kernel of the derivative by all inputs.
  /// @param shape  of the inputs, which decides how many elements a thread takes.
  /// @throws std::invalid_argument if there is no such backend.
  std::string source(const std::string& backend, mx::Dtype type = mx::float32,
                     const std::string& of = "value", const mx::Shape& shape = {4096, 4096}) const;
  /// The same for these arrays: it depends on their types, sizes and gaps. Needs no GPU.
  /// @param inputs, of  as in `metal_launch`.
  std::string source(const std::string& backend, const std::vector<mx::array>& inputs,
                     const std::string& of = "value") const;
  /// What would run for these arrays on Metal, but for the text that MLX puts before every kernel.
  /// Needs no GPU.
  /// @param of  "value", or a derivative by all inputs: "vjp", whose further inputs are the result
  /// if a given derivative uses it and the cotangent; "jvp", with a tangent for each input.
  MetalLaunch metal_launch(const std::vector<mx::array>& inputs,
                           const std::string& of = "value") const;
  /// The formula after simplification, its derivatives, and how the CPU and GPUs run it, for
  /// people.
  std::string explain() const;

  /// Measures how the default device runs the kernel best on arrays like these (CPU: chunks,
  /// threads; GPU: threads of a group, elements of a thread), and runs it so from now on for arrays
  /// of as many elements, up to a power of two. The choice is kept on disk, see `autotune`.
  AutotuneResult tune(const std::vector<mx::array>& inputs) const;

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
  /// What `T` means in the formula, and the type of inputs in it: float32 (the default, whatever
  /// arrays hold), float16, bfloat16 (every operation's result is rounded), int32 or uint32.
  std::optional<mx::Dtype> compute_dtype;
};

/// An operation on each element.
/// @throws std::invalid_argument with the place if the expression is not one.
ZMLX_API Kernel elementwise(const std::string& expression, const ElementwiseOptions& options = {});

struct ReduceOptions {
  std::string init;              ///< the accumulator's first value, a constant: "0.0f"
  std::string update;            ///< of `acc` and the element `v`: "acc + v * v"
  std::string finalize = "acc";  ///< of the result, as `acc` or `s`: "sqrt(s)"
  std::string name;
  std::optional<mx::Dtype> compute_dtype;  ///< as in ElementwiseOptions
};

/// One number for each row, the last axis. An update of the form "acc + f(v)", with +, *, min, max,
/// & | or ^, is done in parts and can be differentiated; any other takes the elements in order.
///
/// A kernel of x (..., D) gives (...), or (1) for x (D).
/// @throws std::invalid_argument with the place if a part is not an expression.
ZMLX_API Kernel reduce(const ReduceOptions& options);

struct RowPassSource {
  std::string init;    ///< a constant
  std::string update;  ///< of the accumulator (`acc1` or `acc2`), `x`, and in pass 2 `s1`
  std::string reduce;  ///< of two partial results `a` and `b`
};
struct MapReduceOptions {
  RowPassSource pass1, pass2;
  std::string write;  ///< of `x` and the passes' results `s1` and `s2`
  std::string name;
  int threadgroup = 256;  ///< threads of a group on a GPU, a power of two; 0 for automatic
  std::optional<mx::Dtype> compute_dtype;  ///< as in ElementwiseOptions
};

/// Two numbers for each row, the last axis, and then something for each element of them: softmax,
/// norms. Differentiable where both updates are of the form "acc + f(x)" (see `reduce`).
/// @throws std::invalid_argument with the place if a part is not an expression.
ZMLX_API Kernel map_reduce(const MapReduceOptions& options);

/// What was made of formulas in this process. Equal definitions are one entry.
struct KernelRecord {
  std::string name, kind, formula;
  int64_t definitions;  ///< how often it was asked for
  int64_t calls;
  double define_seconds;   ///< reading the formula
  double compile_seconds;  ///< everything that later calls do without
  int64_t compilations;
};
ZMLX_API std::vector<KernelRecord> kernel_registry();
ZMLX_API void clear_kernel_registry();

}  // namespace zmlx
