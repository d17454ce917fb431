// `zmlx::reduce` and `zmlx::map_reduce`: from text to kernels.

#include <sstream>
#include <stdexcept>

#include "kernel/arrays.h"
#include "kernel/cpu_rows.h"
#include "kernel/emit.h"
#include "kernel/gpu_kernel.h"
#include "kernel/half_types.h"
#include "kernel/parser.h"
#include "kernel/rows.h"
#include "mlx/ops.h"
#include "mlx/transforms.h"
#include "zmlx/kernel.h"

namespace zmlx {

namespace kernel {

namespace {

/// A name in an expression: the variable's number, and what type it has there.
struct Name {
  std::string name;
  int variable;
  Type type;
};

/// Reads the expressions of one kernel, each with names of its own.
class Reader {
 public:
  /// @param type  that `T` means. Accumulators of 16-bit types are float32: how rounded partial
  /// sums turn out would depend on the order of elements.
  Reader(std::string kind, RowFormula& formula, Type type)
      : kind_(std::move(kind)), formula_(formula), type_(type) {}

  /// Of accumulators and results of passes.
  Type kept_type() const { return computed_as(type_); }

  NodeId read(const std::string& source, const std::string& what, Type type,
              const std::vector<Name>& names) {
    Scope scope;
    scope.compute_type = type_;
    Tree written;
    for (const auto& [name, number, has] : names) scope.bound[name] = written.variable(number, has);
    try {
      const NodeId root = written.cast(parse(source, written, scope), type);
      return without_half_types(written, {root}, formula_.tree)[0];
    } catch (const SyntaxError& error) {
      throw std::invalid_argument("[" + kind_ + "] " + what + ", " + error.what());
    }
  }

  /// @param seen  names of the update besides the accumulator.
  void add_pass(size_t k, const std::string& accumulator, const RowPassSource& source,
                const std::string& label, std::vector<Name> seen) {
    Pass pass;
    pass.type = kept_type();
    const NodeId init = read(source.init, label + "init", pass.type, {});
    if (!formula_.tree.is_constant(init)) {
      throw std::invalid_argument("[" + kind_ + "] " + label + "init must be a constant, but is '" +
                                  source.init + "'.");
    }
    pass.init = formula_.tree[init].value;
    seen.push_back({accumulator, formula_.accumulator(k), pass.type});
    pass.update = read(source.update, label + "update", pass.type, seen);
    if (!source.reduce.empty()) {
      pass.combine =
          read(source.reduce, label + "reduce", pass.type,
               {{"a", formula_.left(k), pass.type}, {"b", formula_.right(k), pass.type}});
    }
    split_update(formula_.tree, formula_.accumulator(k), pass);
    if (pass.op && pass.combine >= 0) check_combination(pass, k, source, label);
    formula_.passes[k] = pass;
  }

 private:
  /// Partial results must go together as elements do.
  void check_combination(const Pass& pass, size_t k, const RowPassSource& source,
                         const std::string& label) {
    auto& tree = formula_.tree;
    const NodeId left = tree.variable(formula_.left(k), pass.type);
    const NodeId right = tree.variable(formula_.right(k), pass.type);
    const NodeId expected = tree.make(*pass.op, left, right);
    const NodeId swapped = tree.make(*pass.op, right, left);
    if (pass.combine != expected && pass.combine != swapped) {
      throw std::invalid_argument("[" + kind_ + "] " + label + "reduce '" + source.reduce +
                                  "' does not go with its update '" + source.update + "'.");
    }
  }

  std::string kind_;
  RowFormula& formula_;
  Type type_;
};

class RowDefinition : public Definition {
 public:
  RowDefinition(std::string kind, std::string name, std::string text, RowFormula formula,
                int threadgroup)
      : Definition(std::move(kind), std::move(name), std::move(text)),
        kernel_(std::make_shared<const RowKernel>(name_, std::move(formula), statistics_,
                                                  threadgroup)) {}

  mx::array call(const std::vector<mx::array>& arrays, mx::StreamOrDevice s_) const override {
    if (arrays.size() != 1) {
      throw std::invalid_argument("[" + name() + "] takes 1 array, not " +
                                  std::to_string(arrays.size()) + ".");
    }
    const auto& x = arrays[0];
    const auto s = mx::to_stream(s_);
    if (x.ndim() == 0 || x.shape(-1) == 0) {
      std::ostringstream message;
      message << "[" << name() << "] works on rows, the last axis, which shape " << x.shape()
              << (x.ndim() == 0 ? " lacks." : " has none of.");
      throw std::invalid_argument(message.str());
    }
    auto out = apply(kernel_, {x}, {x.dtype()}, s)[0];
    // As in the Python package of the same name: one row gives one number in an array.
    return out.ndim() == 0 ? mx::reshape(out, {1}, s) : out;
  }

  const std::vector<std::string>& inputs() const override { return kernel_->formula().names; }

  std::string source(const std::string& backend, mx::Dtype type, const std::string& of,
                     const mx::Shape& shape) const override {
    const auto kernel = of == "value" ? kernel_ : kernel_->gradient({0});
    return rows_source(kernel->formula(), backend, storage_of(written_type(type)),
                       shape.empty() ? 1 : shape.back(), kernel->threadgroup());
  }

  ArrayLaunch launch_for(const std::vector<mx::array>& arrays, const std::string& of,
                         bool cuda) const override {
    const auto kernel = of == "value" ? kernel_
                        : of == "vjp" ? kernel_->gradient({0})
                                      : kernel_->tangent({0});
    const auto& formula = kernel->formula();
    if (arrays.size() != formula.names.size()) {
      throw std::invalid_argument("[" + name() + "] takes " + std::to_string(formula.names.size()) +
                                  " arrays, not " + std::to_string(arrays.size()) + ".");
    }
    std::vector<mx::array> read;
    for (size_t n = 0; n < arrays.size(); ++n) {
      read.push_back(readable(arrays[n], formula.types[n], name(), mx::to_stream(mx::Device::cpu)));
    }
    mx::eval(read);
    const std::vector<mx::Dtype> types(formula.outputs.size(), written_type(arrays[0].dtype()));
    return {launch_of(*kernel, read, types, cuda), types};
  }

  TunedLaunches& launches() const override { return kernel_->launches(); }

  std::string explain() const override {
    std::ostringstream out;
    describe(out, name(), kernel_->formula(), kernel_->threadgroup());
    if (kernel_->formula().splits() && kernel_->formula().types[0] == Type::float32) {
      describe(out, name() + "_vjp", kernel_->gradient({0})->formula(), kernel_->threadgroup());
    }
    return out.str();
  }

 private:
  static void describe(std::ostream& out, const std::string& name, const RowFormula& formula,
                       int threadgroup) {
    const auto names = formula.variable_names();
    out << name << "(";
    for (size_t i = 0; i < formula.names.size(); ++i) out << (i ? ", " : "") << formula.names[i];
    out << ")\n";
    for (size_t k = 0; k < formula.passes.size(); ++k) {
      const auto& pass = formula.passes[k];
      out << "  s" << k + 1 << " = ";
      if (pass.op) {
        out << op_name(*pass.op) << " of " << to_string(formula.tree, pass.element, names);
      } else {
        out << "acc" << k + 1 << " <- " << to_string(formula.tree, pass.update, names);
      }
      out << ", from " << pass.init << "\n";
    }
    for (const auto& output : formula.outputs) {
      out << (output.per_row ? "  each row: " : "  each element: ")
          << to_string(formula.tree, output.root, names) << "\n";
    }
    if (formula.splits()) {
      const auto plan =
          plan_rows(formula, std::vector<Type>(formula.outputs.size(), Type::float32));
      out << "  CPU: " << plan.sweeps.size() + !plan.element_outputs.empty()
          << " walks over a row of " << kShortRow << " elements or more, " << plan.buffers
          << " kept expressions\n";
    }
    out << launch_text(formula, threadgroup);
  }

  RowKernel::Ptr kernel_;
};

RowFormula one_input(const char* name, size_t passes, Type type) {
  RowFormula formula;
  formula.names = {name};
  formula.types = {computed_as(type)};
  formula.per_row = {false};
  formula.passes.resize(passes);
  return formula;
}

RowFormula read_reduce(const ReduceOptions& options) {
  const Type type = compute_type(options.compute_dtype, "reduce");
  auto formula = one_input("v", 1, type);
  Reader reader("reduce", formula, type);
  reader.add_pass(0, "acc", {options.init, options.update, ""}, "", {{"v", 0, type}});
  const int result = formula.result(0);
  const NodeId root =
      reader.read(options.finalize, "finalize", type,
                  {{"acc", result, reader.kept_type()}, {"s", result, reader.kept_type()}});
  formula.outputs = {{root, true}};
  return formula;
}

bool uses(const Tree& tree, NodeId root, int variable) {
  const auto needed = reachable(tree, {root});
  for (size_t id = 0; id < needed.size(); ++id) {
    const Node& node = tree[static_cast<NodeId>(id)];
    if (needed[id] && node.op == Op::variable && node.value == variable) return true;
  }
  return false;
}

RowFormula read_map_reduce(const MapReduceOptions& options) {
  const Type type = compute_type(options.compute_dtype, "map_reduce");
  auto formula = one_input("x", 2, type);
  Reader reader("map_reduce", formula, type);
  // As in the Python package of the same name, x is no T but float32.
  const Name x{"x", 0, reader.kept_type()}, s1{"s1", formula.result(0), reader.kept_type()};
  reader.add_pass(0, "acc1", options.pass1, "pass1 ", {x});
  reader.add_pass(1, "acc2", options.pass2, "pass2 ", {x, s1});
  const NodeId root = reader.read(options.write, "write", type,
                                  {x, s1, {"s2", formula.result(1), reader.kept_type()}});
  formula.outputs = {{root, false}};
  // A norm needs one pass only. What its second one says is checked all the same.
  if (!uses(formula.tree, root, formula.result(1))) formula.passes.pop_back();
  return formula;
}

std::string key_of(const std::vector<std::string>& parts, const std::optional<mx::Dtype>& type,
                   int number) {
  std::ostringstream key;
  for (const auto& part : parts) key << part.size() << ":" << part;
  key << "|" << number;
  if (type) key << *type;
  return key.str();
}

}  // namespace

}  // namespace kernel

Kernel reduce(const ReduceOptions& options) {
  const std::string text = options.init + "; " + options.update + "; " + options.finalize;
  const auto key =
      kernel::key_of({"reduce", options.init, options.update, options.finalize, options.name},
                     options.compute_dtype, 0);
  return Kernel(kernel::find_or_define(key, [&] {
    const auto name = options.name.empty() ? kernel::default_name("reduce", text) : options.name;
    return std::make_shared<const kernel::RowDefinition>("reduce", name, text,
                                                         kernel::read_reduce(options), 0);
  }));
}

Kernel map_reduce(const MapReduceOptions& options) {
  const auto& [pass1, pass2, write, name, threadgroup, compute_dtype] = options;
  if (threadgroup < 0 || threadgroup > 1024 || (threadgroup & (threadgroup - 1)) != 0) {
    throw std::invalid_argument(
        "[map_reduce] threadgroup must be a power of two up to 1024, or 0 for automatic, but is " +
        std::to_string(threadgroup) + ".");
  }
  const std::string text = pass1.init + "; " + pass1.update + "; " + pass1.reduce + "; " +
                           pass2.init + "; " + pass2.update + "; " + pass2.reduce + "; " + write;
  const auto key = kernel::key_of({"map_reduce", pass1.init, pass1.update, pass1.reduce, pass2.init,
                                   pass2.update, pass2.reduce, write, name},
                                  compute_dtype, threadgroup);
  return Kernel(kernel::find_or_define(key, [&] {
    return std::make_shared<const kernel::RowDefinition>(
        "map_reduce",
        options.name.empty() ? kernel::default_name("map_reduce", text) : options.name, text,
        kernel::read_map_reduce(options), options.threadgroup);
  }));
}

}  // namespace zmlx
