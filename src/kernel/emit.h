#pragma once

#include <string>
#include <vector>

#include "kernel/block_memory.h"
#include "kernel/elementwise_kernel.h"
#include "kernel/row_kernel.h"

/// Kernels for GPUs as source text. All that reaches a compiler is printed from typed trees: names
/// that a user chose appear in no code.
namespace zmlx::kernel {

/// How a language writes the operations; everything else is common.
class Dialect {
 public:
  virtual ~Dialect() = default;
  virtual const char* type(Type type) const = 0;
  /// The function of an operation on arguments of a type; empty for what is written as in C.
  virtual std::string function(Op op, Type argument) const = 0;
  virtual std::string number(double value, Type type) const = 0;
  /// Functions that turn float32 into integers.
  virtual std::string to_int() const = 0;
  virtual std::string to_uint() const = 0;
};

/// Statements that compute `roots` of variables with the given names.
struct Printed {
  std::string statements;
  std::vector<std::string> results;  ///< an expression for each root
};
/// @param prefix  of the names of intermediate results.
Printed print(const Tree& tree, const std::vector<NodeId>& roots,
              const std::vector<std::string>& variables, const Dialect& dialect,
              const std::string& prefix, const std::string& indent);

/// A kernel's text in pieces: functions, and the body that is given to the language's launcher.
struct KernelText {
  std::string functions, body;
  std::vector<std::string> inputs, outputs;  ///< names of parameters
};

/// What the launch decides.
struct ElementwiseForm {
  std::vector<Storage> inputs, outputs;
  std::vector<bool> single;  ///< inputs of one element for all
  bool vectors;              ///< four elements at a time; memory is aligned for it
};
struct RowForm {
  std::vector<Storage> inputs, outputs;
  int threads;
  bool vectors;
};

KernelText cuda_elementwise(const ElementwiseFormula& formula, const ElementwiseForm& form);
KernelText cuda_rows(const RowFormula& formula, const RowForm& form);
KernelText metal_elementwise(const ElementwiseFormula& formula, const ElementwiseForm& form);
KernelText metal_rows(const RowFormula& formula, const RowForm& form);

/// Whole files for people, and for compilers in tests.
std::string elementwise_source(const ElementwiseFormula& formula, const std::string& backend,
                               Storage storage);
std::string rows_source(const RowFormula& formula, const std::string& backend, Storage storage,
                        int threads);

/// A formula's functions with what they call: src/metal/kernel_formula.h.
std::string metal_header(const KernelText& text);

}  // namespace zmlx::kernel
