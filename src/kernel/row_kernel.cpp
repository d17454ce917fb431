#include "kernel/row_kernel.h"

#include <stdexcept>

#include "kernel/gpu_form.h"

namespace zmlx::kernel {

namespace {
std::atomic<int64_t> kernels{0};
}

RowKernel::RowKernel(std::string name, RowFormula formula, std::shared_ptr<Statistics> statistics,
                     int threadgroup)
    : name_(std::move(name)),
      formula_(std::move(formula)),
      statistics_(std::move(statistics)),
      threadgroup_(threadgroup),
      number_(++kernels) {}

template <typename Map, typename Make>
const auto& RowKernel::kept(Map& map, const typename Map::key_type& key, const Make& make) const {
  std::lock_guard lock(mutex_);
  auto& entry = map[key];
  if (!entry) {
    const Timer timer(statistics_->compile_nanoseconds);
    ++statistics_->compilations;
    entry = make();
  }
  return entry;
}

RowKernel::Ptr RowKernel::derived(const char* suffix, const std::vector<int>& by,
                                  RowFormula (*derive)(const RowFormula&,
                                                       const std::vector<int>&)) const {
  try {
    return std::make_shared<const RowKernel>(name_ + suffix, derive(formula_, by), statistics_,
                                             threadgroup_);
  } catch (const std::length_error& error) {
    throw std::invalid_argument("[" + name_ + "] the derivative is too large: " + error.what() +
                                ".");
  } catch (const std::invalid_argument& error) {
    throw std::invalid_argument("[" + name_ + "] " + error.what());
  }
}

RowKernel::Ptr RowKernel::gradient(const std::vector<int>& by) const {
  return kept(gradients_, by, [&] { return derived("_vjp", by, row_gradient); });
}

RowKernel::Ptr RowKernel::tangent(const std::vector<int>& by) const {
  return kept(tangents_, by, [&] { return derived("_jvp", by, row_tangent); });
}

const RowPlan& RowKernel::row_plan(const std::vector<Type>& stored) const {
  return *kept(row_plans_, stored,
               [&] { return std::make_unique<const RowPlan>(plan_rows(formula_, stored)); });
}

const ColumnPlan& RowKernel::column_plan(const std::vector<Type>& stored) const {
  return *kept(column_plans_, stored,
               [&] { return std::make_unique<const ColumnPlan>(plan_columns(formula_, stored)); });
}

double RowKernel::registers(const std::vector<Storage>& inputs) const {
  return *kept(registers_, inputs, [&] {
    return std::make_unique<const double>(registers_of_element(formula_, inputs));
  });
}

}  // namespace zmlx::kernel
