#pragma once

#include <atomic>
#include <chrono>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "kernel/tune.h"
#include "mlx/array.h"
#include "mlx/utils.h"
#include "zmlx/kernel.h"

namespace zmlx::kernel {

namespace mx = mlx::core;

/// Counts of one definition, for the registry.
struct Statistics {
  std::atomic<int64_t> definitions{0}, calls{0}, compilations{0}, define_nanoseconds{0},
      compile_nanoseconds{0};
};

/// Adds the time that it lives to a count.
class Timer {
 public:
  explicit Timer(std::atomic<int64_t>& nanoseconds) : sum_(nanoseconds) {}
  ~Timer() {
    sum_ += std::chrono::duration_cast<std::chrono::nanoseconds>(Clock::now() - start_).count();
  }

 private:
  using Clock = std::chrono::steady_clock;
  std::atomic<int64_t>& sum_;
  Clock::time_point start_ = Clock::now();
};

struct ArrayLaunch;  // kernel/gpu_kernel.h

/// What is behind a zmlx::Kernel.
class Definition {
 public:
  Definition(std::string kind, std::string name, std::string formula)
      : kind_(std::move(kind)), name_(std::move(name)), formula_(std::move(formula)) {}
  virtual ~Definition() = default;

  virtual mx::array call(const std::vector<mx::array>& inputs, mx::StreamOrDevice s) const = 0;
  virtual const std::vector<std::string>& inputs() const = 0;
  virtual std::string explain() const = 0;
  /// See `Kernel::source`.
  virtual std::string source(const std::string& backend, mx::Dtype type, const std::string& of,
                             const mx::Shape& shape) const = 0;

  /// What would run for arrays on a GPU; see `Kernel::metal_launch`.
  virtual ArrayLaunch launch_for(const std::vector<mx::array>& inputs, const std::string& of,
                                 bool cuda) const = 0;

  const std::string& kind() const { return kind_; }
  const std::string& name() const { return name_; }
  const std::string& formula() const { return formula_; }
  /// How the CPU runs it; kernels of derivatives have their own.
  virtual TunedLaunches& launches() const = 0;
  Statistics& statistics() const { return *statistics_; }
  const std::shared_ptr<Statistics>& shared_statistics() const { return statistics_; }

 protected:
  std::string kind_, name_, formula_;
  std::shared_ptr<Statistics> statistics_ = std::make_shared<Statistics>();
};

/// The definition of a key that is kept, or what `make` makes of it.
std::shared_ptr<const Definition> find_or_define(
    const std::string& key, const std::function<std::shared_ptr<const Definition>()>& make);

/// A name that is an identifier, made from the kind and the formula.
std::string default_name(const std::string& kind, const std::string& formula);

}  // namespace zmlx::kernel
