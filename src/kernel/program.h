#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "kernel/expression.h"

/// Expressions as straight-line code for the tile evaluator (tile_kernels.h).
namespace zmlx::kernel {

/// What one instruction does: an entry of the table of operations. For an operation on arguments
/// of one type it is `op * 4 + type`; the rest follow.
using KernelIndex = uint16_t;
constexpr KernelIndex kCastKernels = static_cast<KernelIndex>(kOps * 4);  ///< + from * 4 + to
constexpr KernelIndex kMultiplySubtract = kCastKernels + 16;              ///< a * b - c
constexpr KernelIndex kNegativeMultiplyAdd = kMultiplySubtract + 1;       ///< c - a * b
constexpr KernelIndex kOnePlusTanh = kNegativeMultiplyAdd + 1;            ///< 1 + tanh(a)
constexpr KernelIndex kTanhSoftplus = kOnePlusTanh + 1;                   ///< tanh(softplus(a))
constexpr KernelIndex kExpDifference = kTanhSoftplus + 1;                 ///< exp(a - b)
constexpr KernelIndex kScaledSquare = kExpDifference + 1;                 ///< (b * a) * a
constexpr KernelIndex kScaledSquareAdd = kScaledSquare + 1;               ///< (b * a) * a + c
constexpr KernelIndex kProduct = kScaledSquareAdd + 1;                    ///< (a * b) * c
/// a < d ? b : c and so on, d being uniform: less, less_equal, and those with d on the left.
constexpr KernelIndex kChoose = kProduct + 1;
/// ((a * b + c[0]) * b + c[1]) ...: with 2 to kMostCoefficients coefficients, which are uniforms
/// one after the other from c on.
constexpr KernelIndex kHorner = kChoose + 4;
constexpr size_t kMostCoefficients = 9;
constexpr KernelIndex kKernels = static_cast<KernelIndex>(kHorner + kMostCoefficients - 1);

constexpr KernelIndex kernel_index(Op op, Type argument) {
  return static_cast<KernelIndex>(static_cast<int>(op) * 4 + static_cast<int>(argument));
}

struct Operand {
  enum class Kind : uint8_t {
    block,    ///< a register: one value for each element
    input,    ///< a varying variable
    uniform,  ///< one value for all elements
  } kind = Kind::block;
  uint16_t index = 0;
};

struct Instruction {
  KernelIndex kernel;
  uint8_t arguments;
  Operand args[4];  ///< a fourth is uniform
  Operand out;
};

struct Program {
  /// Once for all elements: out and arguments are uniform.
  std::vector<Instruction> uniform_code;
  /// For each block.
  std::vector<Instruction> code;
  /// Values of the first uniforms, as bits. Then come the uniform variables, in the order of
  /// `uniform_variables`, then results.
  std::vector<uint32_t> constants;
  std::vector<int> uniform_variables;
  /// Variables whose blocks are inputs, by the index in operands.
  std::vector<int> inputs;
  size_t uniforms = 0, registers = 0;
  std::vector<Operand> outputs;
};

/// Compiles the roots.
/// @param varying  for each variable whether it differs between elements.
/// @param materialized  expressions that are inputs, their blocks computed before, as variables of
/// these numbers: pairs of id and number, numbers beyond the tree's variables.
Program compile(const Tree& tree, const std::vector<NodeId>& roots,
                const std::vector<bool>& varying,
                const std::vector<std::pair<NodeId, int>>& materialized = {});

}  // namespace zmlx::kernel
