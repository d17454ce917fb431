#pragma once

#include <string>
#include <vector>

#include "kernel/emit.h"

/// The parts of kernels that languages for GPUs share.
namespace zmlx::kernel {

/// "a0", "a1"...
std::vector<std::string> numbered_names(const char* letter, size_t count);

/// A language for GPUs: how it writes what surrounds formulas.
class Gpu : public Dialect {
 public:
  /// Before a function, and the type of a parameter that it writes.
  virtual std::string function_prefix() const = 0;
  virtual std::string reference(Type type) const = 0;

  /// An element of memory as a value of the type, and back.
  virtual std::string loaded(Storage storage, Type type, const std::string& place) const = 0;
  virtual std::string stored(Storage storage, const std::string& value) const = 0;

  /// Four elements: their type, number `index` of them behind a pointer, and one of them.
  virtual std::string vector(Storage storage) const = 0;
  virtual std::string vector_at(Storage storage, const std::string& pointer,
                                const std::string& index, bool read) const = 0;
  virtual std::string lane(const std::string& vector, const std::string& index) const = 0;

  /// Numbers and counts of threads and groups, as int.
  virtual std::string thread() const = 0;
  virtual std::string threads() const = 0;
  virtual std::string group() const = 0;
  virtual std::string groups() const = 0;
  std::string all_threads() const { return groups() + " * " + threads(); }
  std::string thread_of_all() const { return group() + " * " + threads() + " + " + thread(); }

  virtual std::string wide_int() const = 0;
  virtual std::string unroll() const = 0;
  virtual std::string shared_memory() const = 0;
  /// Statements after which every thread's `value` is that of the whole group.
  virtual std::string reduce(const std::string& value, const std::string& identity,
                             const std::string& shared, const std::string& type,
                             const std::string& combine, const std::string& indent) const = 0;
};
const Gpu& cuda_gpu();
const Gpu& metal_gpu();

KernelText elementwise_text(const ElementwiseFormula& formula, const ElementwiseForm& form,
                            const Gpu& gpu);
KernelText rows_text(const RowFormula& formula, const RowForm& form, const Gpu& gpu);

/// `formula(x0, x1, ..., y0, y1, ...)`: the outputs, of a storage each, of one element.
std::string formula_function(const Tree& tree, const std::vector<NodeId>& roots,
                             const std::vector<Type>& types, const std::vector<Storage>& outputs,
                             const Gpu& gpu);

/// The type of expressions that an output is stored from.
Type value_type(Storage storage);

/// Passes of a row that are walked together, in order.
std::vector<std::vector<size_t>> pass_groups(const RowFormula& formula);

/// Whether a row must be walked by one thread in order.
bool in_order(const RowFormula& formula);

/// Of two partial results of a pass: `combine<k>(a, b)`.
std::string combine_functions(const RowFormula& formula, const Gpu& gpu);

/// What a pass's partial results start from, and whether `init` still has to be worked in.
double start_of(const Pass& pass);

/// Names of the formula's variables in a row kernel: inputs x<n>, results s<k>, accumulators
/// acc<k>.
std::vector<std::string> row_variables(const RowFormula& formula);

}  // namespace zmlx::kernel
