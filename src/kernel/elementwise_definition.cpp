// `zmlx::elementwise`: from text to a kernel.

#include <algorithm>
#include <numeric>
#include <sstream>
#include <stdexcept>

#include "kernel/arrays.h"
#include "kernel/elementwise.h"
#include "kernel/emit.h"
#include "kernel/gpu_kernel.h"
#include "kernel/half_types.h"
#include "kernel/parser.h"
#include "kernel/tile_kernels.h"
#include "mlx/ops.h"
#include "mlx/transforms.h"
#include "zmlx/kernel.h"

namespace zmlx {

namespace kernel {

namespace {

/// Parses, with the kernel's name and the option's before errors.
NodeId parse_named(const std::string& source, Tree& tree, Scope& scope, const std::string& place) {
  try {
    return parse(source, tree, scope);
  } catch (const SyntaxError& error) {
    throw std::invalid_argument(place + " " + error.what());
  }
}

void check_input_names(const std::vector<std::string>& names) {
  for (size_t i = 0; i < names.size(); ++i) {
    if (!is_free_name(names[i])) {
      throw std::invalid_argument("[elementwise] '" + names[i] +
                                  "' cannot be an input's name: it is not an identifier, or has a "
                                  "meaning in expressions.");
    }
    if (std::find(names.begin(), names.begin() + static_cast<int64_t>(i), names[i]) !=
        names.begin() + static_cast<int64_t>(i)) {
      throw std::invalid_argument("[elementwise] two inputs are named '" + names[i] + "'.");
    }
  }
}

ElementwiseFormula read_formula(const std::string& expression, const ElementwiseOptions& options) {
  ElementwiseFormula formula;
  Scope scope;
  scope.compute_type = compute_type(options.compute_dtype, "elementwise");
  scope.open = options.inputs.empty();
  check_input_names(options.inputs);
  Tree written;
  for (const auto& name : options.inputs) scope.declare(written, name, scope.compute_type);
  const NodeId root = parse_named(expression, written, scope, "[elementwise]");
  formula.roots = without_half_types(written, {root}, formula.tree);
  if (scope.variables.empty()) {
    throw std::invalid_argument("[elementwise] the expression '" + expression +
                                "' has no inputs; name at least one, or give `inputs`.");
  }
  formula.names = scope.variables;
  formula.types.assign(formula.names.size(), computed_as(scope.compute_type));
  return formula;
}

std::optional<UserGradient> read_gradient(const ElementwiseFormula& formula,
                                          const ElementwiseOptions& options) {
  if (options.grad_expr.empty()) return std::nullopt;
  if (options.grad_expr.size() != formula.names.size()) {
    throw std::invalid_argument(
        "[elementwise] grad_expr must hold one expression for each of the " +
        std::to_string(formula.names.size()) + " inputs, but holds " +
        std::to_string(options.grad_expr.size()) + ".");
  }
  UserGradient gradient{{}, {}, options.use_output};
  Scope scope;
  // A cotangent is of floats.
  const Type type = compute_type(options.compute_dtype, "elementwise");
  scope.compute_type = is_float(type) ? type : Type::float32;
  Tree written;
  const auto declare = [&](const std::string& name) {
    if (scope.bound.contains(name)) {
      throw std::invalid_argument("[elementwise] with grad_expr no input can be named '" + name +
                                  "'.");
    }
    scope.declare(written, name, scope.compute_type);
  };
  for (const auto& name : formula.names) declare(name);
  if (options.use_output) declare("y");
  declare("g");
  for (const auto& source : options.grad_expr) {
    Scope own = scope;  // what one binds the next does not see
    const NodeId root = parse_named(source, written, own, "[elementwise] grad_expr,");
    gradient.roots.push_back(
        without_half_types(written, {written.cast(root, Type::float32)}, gradient.tree)[0]);
  }
  return gradient;
}

class ElementwiseDefinition : public Definition {
 public:
  ElementwiseDefinition(const std::string& expression, const ElementwiseOptions& options)
      : Definition("elementwise",
                   options.name.empty() ? default_name("elementwise", expression) : options.name,
                   expression) {
    auto formula = read_formula(expression, options);
    auto gradient = read_gradient(formula, options);
    kernel_ = std::make_shared<const ElementwiseKernel>(name_, std::move(formula), statistics_,
                                                        std::move(gradient));
  }

  mx::array call(const std::vector<mx::array>& arrays, mx::StreamOrDevice s) const override {
    check_count(arrays, inputs().size());
    return apply(kernel_, arrays, {result_type_of(arrays)}, mx::to_stream(s))[0];
  }

  const std::vector<std::string>& inputs() const override { return kernel_->formula().names; }

  std::string source(const std::string& backend, mx::Dtype type, const std::string& of,
                     const mx::Shape& shape) const override {
    const auto storage = storage_of(written_type(type));
    int64_t size = 1;
    for (int side : shape) size *= side;
    if (of == "value") return elementwise_source(kernel_->formula(), backend, storage, size);
    return elementwise_source(kernel_->gradient(all_inputs())->formula(), backend, storage, size);
  }

  ArrayLaunch launch_for(const std::vector<mx::array>& arrays, const std::string& of,
                         bool cuda) const override {
    const auto kernel = of == "value" ? kernel_
                        : of == "vjp" ? kernel_->gradient(all_inputs())
                                      : kernel_->tangent(all_inputs());
    check_count(arrays, kernel->formula().names.size());
    auto read = read_by(*kernel, arrays, mx::to_stream(mx::Device::cpu));
    mx::eval(read);
    // A derivative by inputs has their types; the result's is what they promote to.
    std::vector<mx::Dtype> types;
    for (size_t i = 0; i < inputs().size(); ++i) types.push_back(written_type(arrays[i].dtype()));
    if (of != "vjp") types = {written_type(result_type_of(arrays))};
    return {launch_of(*kernel, read, types, cuda), std::move(types)};
  }

  TunedLaunches& launches() const override { return kernel_->launches(); }

  std::string explain() const override {
    std::ostringstream out;
    const auto& formula = kernel_->formula();
    out << name() << "(";
    for (size_t i = 0; i < formula.names.size(); ++i) out << (i ? ", " : "") << formula.names[i];
    out << ") = " << to_string(formula.tree, formula.roots[0], formula.names) << "\n";
    for (size_t i = 0; i < formula.names.size(); ++i) {
      if (formula.types[i] != Type::float32) continue;
      const auto gradient = kernel_->gradient({static_cast<int>(i)});
      const auto& derived = gradient->formula();
      out << "cotangent of " << formula.names[i] << " = "
          << to_string(derived.tree, derived.roots[0], derived.names) << "\n";
    }
    const auto& program = kernel_->program({Type::float32});
    out << "CPU: " << program.code.size() << " instructions on tiles of " << tile_kernels().tile
        << " elements, " << program.registers << " registers\n"
        << launch_text(formula);
    return out.str();
  }

 private:
  void check_count(const std::vector<mx::array>& arrays, size_t wanted) const {
    if (arrays.size() == wanted) return;
    throw std::invalid_argument("[" + name() + "] takes " + std::to_string(wanted) +
                                (wanted == 1 ? " array" : " arrays") + ", not " +
                                std::to_string(arrays.size()) + ".");
  }

  /// What the kernel's inputs promote to; those of a derivative follow them.
  mx::Dtype result_type_of(const std::vector<mx::array>& arrays) const {
    auto type = arrays[0].dtype();
    for (size_t i = 1; i < inputs().size(); ++i) type = mx::promote_types(type, arrays[i].dtype());
    return type;
  }

  std::vector<int> all_inputs() const {
    std::vector<int> all(inputs().size());
    std::iota(all.begin(), all.end(), 0);
    return all;
  }

  ElementwiseKernel::Ptr kernel_;
};

std::string key_of(const std::string& expression, const ElementwiseOptions& options) {
  std::ostringstream key;
  const auto add = [&](const std::string& text) { key << text.size() << ":" << text; };
  key << "elementwise ";
  add(expression);
  add(options.name);
  for (const auto& name : options.inputs) add(name);
  key << "|";
  for (const auto& source : options.grad_expr) add(source);
  key << "|" << options.use_output;
  if (options.compute_dtype) key << *options.compute_dtype;
  return key.str();
}

}  // namespace

}  // namespace kernel

Kernel elementwise(const std::string& expression, const ElementwiseOptions& options) {
  return Kernel(kernel::find_or_define(kernel::key_of(expression, options), [&] {
    return std::make_shared<const kernel::ElementwiseDefinition>(expression, options);
  }));
}

Kernel::Kernel(std::shared_ptr<const kernel::Definition> definition)
    : definition_(std::move(definition)) {}

mx::array Kernel::call(const std::vector<mx::array>& inputs, mx::StreamOrDevice s) const {
  return definition_->call(inputs, s);
}

const std::string& Kernel::name() const { return definition_->name(); }
const std::vector<std::string>& Kernel::inputs() const { return definition_->inputs(); }

std::string Kernel::source(const std::string& backend, mx::Dtype type, const std::string& of,
                           const mx::Shape& shape) const {
  if (of != "value" && of != "vjp") {
    throw std::invalid_argument("[source] kernels are 'value' and 'vjp', not '" + of + "'.");
  }
  return definition_->source(backend, type, of, shape);
}

namespace {

void check_part(const std::string& function, const std::string& of) {
  if (of == "value" || of == "vjp" || of == "jvp") return;
  throw std::invalid_argument("[" + function + "] kernels are 'value', 'vjp' and 'jvp', not '" +
                              of + "'.");
}

}  // namespace

std::string Kernel::source(const std::string& backend, const std::vector<mx::array>& inputs,
                           const std::string& of) const {
  check_part("source", of);
  if (backend != "cuda" && backend != "metal") {
    throw std::invalid_argument("[source] backends are 'metal' and 'cuda', not '" + backend + "'.");
  }
  const bool cuda = backend == "cuda";
  const auto launch = definition_->launch_for(inputs, of, cuda);
  if (cuda) return kernel::cuda_text(launch);
  const auto metal = kernel::described(launch);
  return metal.header + metal.text;
}

MetalLaunch Kernel::metal_launch(const std::vector<mx::array>& inputs,
                                 const std::string& of) const {
  check_part("metal_launch", of);
  return kernel::described(definition_->launch_for(inputs, of, false));
}

std::string Kernel::explain() const { return definition_->explain(); }

}  // namespace zmlx
