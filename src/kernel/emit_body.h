#pragma once

#include <string>
#include <vector>

#include "kernel/emit.h"
#include "kernel/row_plan.h"

/// The parts of kernels that languages for GPUs share.
namespace zmlx::kernel {

/// "a0", "a1"...
std::vector<std::string> numbered_names(const char* letter, size_t count);

/// A language for GPUs: how it writes what surrounds formulas.
class Gpu : public Dialect {
 public:
  /// Before a function, and the type of a parameter that it writes.
  virtual std::string function_prefix(bool inlined) const = 0;
  virtual std::string reference(Type type) const = 0;

  /// An element of memory as a value of the type, and back.
  virtual std::string loaded(Storage storage, Type type, const std::string& place) const = 0;
  virtual std::string stored(Storage storage, const std::string& value) const = 0;

  /// `width` elements: their type, number `index` of them behind a pointer, and one of them. Of
  /// width 1, elements themselves.
  std::string vector(Storage storage, int width) const;
  std::string vector_at(Storage storage, int width, const std::string& pointer,
                        const std::string& index, bool read) const;
  std::string lane(int width, const std::string& vector, const std::string& index) const;

  /// Numbers of a thread and its group, and the count of groups, as int.
  virtual std::string thread() const = 0;
  virtual std::string group() const = 0;
  virtual std::string groups() const = 0;

  virtual std::string wide_int() const = 0;
  virtual std::string unroll() const = 0;
  virtual std::string shared_memory() const = 0;
  virtual std::string barrier() const = 0;
  virtual std::string divisor_type() const = 0;
  virtual std::string divisor(const std::string& value) const = 0;
  /// Statements after which the `value` of each of a row's threads is that of all.
  /// @param shared  memory for a value of each 32 threads. A thread may still be reading it when
  /// another has gone on.
  virtual std::string reduce(const std::string& value, const std::string& shared, int lanes,
                             const std::string& combine, const std::string& indent) const = 0;

 protected:
  virtual std::string memory_type(Storage storage) const = 0;
  virtual std::string vector_type(const std::string& element, int width) const = 0;
  /// In front of a pointer's type.
  virtual std::string address_space() const = 0;
  virtual std::string lane_of(const std::string& vector, const std::string& index) const = 0;
};

KernelText elementwise_text(const ElementwiseFormula& formula, const ElementwiseForm& form,
                            const Gpu& gpu);
KernelText rows_text(const RowFormula& formula, const RowForm& form, const Gpu& gpu);

/// `formula(x0, x1, ..., y0, y1, ...)`: the outputs, of a storage each, of one element.
std::string formula_function(const Tree& tree, const std::vector<NodeId>& roots,
                             const std::vector<Type>& types, const std::vector<Storage>& outputs,
                             const std::string& prefix, const Gpu& gpu);

/// Expressions of a row that are kept in registers, at most.
constexpr size_t kMostKept = 3;

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
