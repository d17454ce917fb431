#pragma once

#include <vector>

#include "kernel/cpu_elementwise.h"
#include "kernel/row_formula.h"
#include "kernel/row_plan.h"

namespace zmlx::kernel {

/// A row formula on arrays: inputs of one number an element have `shape`, whose last axis is the
/// row; those of one a row have it without its last axis. Outputs are contiguous.
struct RowCall {
  const RowFormula& formula;
  std::vector<int64_t> shape;
  std::vector<StridedArray> inputs;
  std::vector<OutputArray> outputs;
  CpuLaunch launch;
  /// The shape that each input is walked with; filled in by `run_rows`.
  std::vector<std::vector<int64_t>> shapes;

  size_t length() const { return static_cast<size_t>(shape.back()); }
  size_t rows() const;
};

/// Row by row; for formulas whose passes split.
void run_rows(const RowCall& call, const RowPlan& plan);

/// Many rows at once, element by element; for all others, and for short rows.
void run_columns(const RowCall& call, const ColumnPlan& plan);

/// Rows of fewer elements than this are not worth walking one by one.
constexpr size_t kShortRow = 48;

/// Outputs of rows as long as this begin in a cache line where their input does, and shorter ones
/// with a line.
constexpr size_t kLongRow = 16384;

/// Bits of a number of the type.
uint32_t bits_of(double value, Type type);

/// result = init op partial: what a pass that splits comes to.
uint32_t with_init(const Pass& pass, uint32_t partial);

}  // namespace zmlx::kernel
