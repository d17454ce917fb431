#pragma once

#include <map>
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
  /// A function of a number and a `Divisor`.
  virtual std::string quotient() const = 0;
  /// Functions that turn float32 into integers.
  virtual std::string to_int() const = 0;
  virtual std::string to_uint() const = 0;
};

/// Statements that compute `roots` of variables with the given names.
struct Printed {
  std::string statements;
  std::vector<std::string> results;  ///< an expression for each root
};
/// What is there already, and how divisors are written by whose inverse is multiplied.
struct Known {
  std::map<NodeId, std::string> values;    ///< expressions for nodes
  std::map<NodeId, std::string> divisors;  ///< names of `Divisor`s made of nodes
};
/// @param prefix  of the names of intermediate results.
Printed print(const Tree& tree, const std::vector<NodeId>& roots,
              const std::vector<std::string>& variables, const Dialect& dialect,
              const std::string& prefix, const std::string& indent, const Known& known = {});

/// A kernel's text in pieces: functions, and the body that is given to the language's launcher.
struct KernelText {
  std::string functions, body;
  std::vector<std::string> inputs, outputs;  ///< names of parameters
};

/// How elements of an input lie, seen from a vector of the result.
enum class Reading : uint8_t {
  whole,   ///< as those of the result
  single,  ///< one for all
  // Anywhere, by strides:
  run,       ///< a vector's lie together, aligned as a vector
  same,      ///< one for a vector
  gathered,  ///< one by one
};
constexpr bool has_gaps(Reading reading) { return reading >= Reading::run; }

/// What the launch decides.
struct ElementwiseForm {
  std::vector<Storage> inputs, outputs;
  std::vector<Reading> readings;  ///< of the inputs
  int axes;     ///< of the shape in which inputs with gaps are walked. Vectors divide the last of
                ///< several; 0 if no input has gaps.
  int width;    ///< elements of a vector, for which memory is aligned, or 1
  int vectors;  ///< that a thread loads before it computes
  int threads;  ///< of a group
};
struct RowForm {
  std::vector<Storage> inputs, outputs;
  int lanes;   ///< threads of a row: 32, or all of a group
  int rows;    ///< of a group; more than one only with 32 lanes
  int width;   ///< elements of a vector, for which rows are aligned, or 1
  int held;    ///< vectors of a row that a thread holds; 0 if passes read the row again
  bool whole;  ///< whether a row is exactly what its threads hold
  int threads() const { return lanes * rows; }
};

KernelText cuda_elementwise(const ElementwiseFormula& formula, const ElementwiseForm& form);
KernelText cuda_rows(const RowFormula& formula, const RowForm& form);
KernelText metal_elementwise(const ElementwiseFormula& formula, const ElementwiseForm& form);
KernelText metal_rows(const RowFormula& formula, const RowForm& form);

/// Whole files for people, and for compilers in tests: for arrays of `size` elements, or rows of
/// `length`.
std::string elementwise_source(const ElementwiseFormula& formula, const std::string& backend,
                               Storage storage, int64_t size);
std::string rows_source(const RowFormula& formula, const std::string& backend, Storage storage,
                        int64_t length, int threadgroup);

/// How GPUs run a formula on (4096, 4096) float32, for people: a line each.
std::string launch_text(const ElementwiseFormula& formula);
std::string launch_text(const RowFormula& formula, int threadgroup);

/// A formula's functions with what they call: src/metal/kernel_formula.h.
std::string metal_header(const KernelText& text);

}  // namespace zmlx::kernel
