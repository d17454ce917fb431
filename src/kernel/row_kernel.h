#pragma once

#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "kernel/cpu_elementwise.h"
#include "kernel/definition.h"
#include "kernel/row_formula.h"
#include "kernel/row_plan.h"
#include "kernel/strided.h"

namespace zmlx::kernel {

/// A row formula with what is made of it when it is first needed.
class RowKernel {
 public:
  RowKernel(std::string name, RowFormula formula, std::shared_ptr<Statistics> statistics,
            int threadgroup = 0);

  using Ptr = std::shared_ptr<const RowKernel>;
  /// Both of `row_gradient` and `row_tangent`, kept.
  Ptr gradient(const std::vector<int>& by) const;
  Ptr tangent(const std::vector<int>& by) const;

  const RowPlan& row_plan(const std::vector<Type>& stored) const;
  const ColumnPlan& column_plan(const std::vector<Type>& stored) const;
  /// See `registers_of_element`.
  double registers(const std::vector<Storage>& inputs) const;

  const std::string& name() const { return name_; }
  const RowFormula& formula() const { return formula_; }
  /// Threads of a group on a GPU; 0 leaves it to the library.
  int threadgroup() const { return threadgroup_; }
  int64_t number() const { return number_; }
  const std::shared_ptr<Statistics>& statistics() const { return statistics_; }
  TunedLaunches& launches() const { return launches_; }

 private:
  template <typename Map, typename Make>
  const auto& kept(Map& map, const typename Map::key_type& key, const Make& make) const;
  Ptr derived(const char* suffix, const std::vector<int>& by,
              RowFormula (*derive)(const RowFormula&, const std::vector<int>&)) const;

  std::string name_;
  RowFormula formula_;
  std::shared_ptr<Statistics> statistics_;
  int threadgroup_;
  int64_t number_;
  mutable TunedLaunches launches_;
  mutable std::mutex mutex_;
  mutable std::map<std::vector<Type>, std::unique_ptr<const RowPlan>> row_plans_;
  mutable std::map<std::vector<Type>, std::unique_ptr<const ColumnPlan>> column_plans_;
  mutable std::map<std::vector<Storage>, std::unique_ptr<const double>> registers_;
  mutable std::map<std::vector<int>, Ptr> gradients_, tangents_;
};

}  // namespace zmlx::kernel
