#pragma once

#include <memory>
#include <utility>
#include <vector>

#include "kernel/program.h"
#include "kernel/row_formula.h"

namespace zmlx::kernel {

/// One walk over a row that serves passes which do not wait for each other.
struct Sweep {
  std::vector<size_t> passes;
  Program program;        ///< outputs: the passes' elements, then what is kept
  std::vector<int> kept;  ///< buffers that the last outputs go to
};

/// How the CPU runs a row formula whose passes split: sweeps, then outputs. What a sweep computes
/// at some cost and a later step needs again is kept in buffers of a row's length.
struct RowPlan {
  std::vector<Sweep> sweeps;
  Program elements;  ///< of the outputs that are one an element
  Program rows;      ///< of those that are one a row, on many rows at once
  std::vector<size_t> element_outputs, row_outputs;
  int buffers = 0;
  int first_buffer = 0;  ///< variable number of buffer 0 in programs
};

/// @param stored  the type that each output is stored as.
RowPlan plan_rows(const RowFormula& formula, const std::vector<Type>& stored);

/// For each node whether it differs between a row's elements.
std::vector<bool> varies_along_rows(const RowFormula& formula, const Tree& tree);

/// What a step (the roots of a walk over a row) computes at some cost for each element and a later
/// one needs again: the outermost nodes with a function in them, each with the first such step.
/// @param tree  the formula's, or what it has become.
std::vector<std::pair<NodeId, size_t>> shared_nodes(const RowFormula& formula, const Tree& tree,
                                                    const std::vector<std::vector<NodeId>>& steps,
                                                    size_t most);

/// The level of each pass: passes of one level depend on earlier levels only.
std::vector<int> pass_levels(const RowFormula& formula);

/// For formulas whose passes do not split, and for short rows: many rows at once, an element of
/// each at a time. All variables differ between lanes.
struct ColumnPlan {
  std::vector<Program> updates;  ///< of each pass: its accumulator after one more element
  Program elements, rows;
  std::vector<size_t> element_outputs, row_outputs;
};
ColumnPlan plan_columns(const RowFormula& formula, const std::vector<Type>& stored);

}  // namespace zmlx::kernel
