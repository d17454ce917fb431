#include "zmlx/autotune.h"

#include <sys/utsname.h>

#include <algorithm>
#include <chrono>
#include <fstream>
#include <map>
#include <mutex>
#include <numeric>
#include <stdexcept>

#include "autotune/cache.h"
#include "cuda/host/api.h"
#include "fast/cuda_path.h"
#include "mlx/device.h"
#include "zmlx/runtime.h"

namespace zmlx {

namespace mx = mlx::core;

namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

double median(std::vector<double> values) {
  const auto middle = values.begin() + static_cast<int64_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

std::string processor() {
  std::ifstream file("/proc/cpuinfo");
  for (std::string line; std::getline(file, line);) {
    if (line.starts_with("model name")) return line.substr(line.find(':') + 1);
  }
  return "unknown processor";
}

/// The version of what compiles for the GPU and drives it; on macOS that is part of the system.
std::string gpu_driver() {
  if (fast::cuda_compute_capability() > 0) {
    int version = 0;
    if (const auto& api = cuda::api(); api.cuDriverGetVersion) api.cuDriverGetVersion(&version);
    return "CUDA driver " + std::to_string(version);
  }
  utsname system{};
  uname(&system);
  return std::string(system.sysname) + " " + system.release;
}

std::string gpu() {
  if (!mx::is_available(mx::Device(mx::Device::gpu))) return "no GPU";
  std::string text;
  const auto& info = mx::device_info(mx::Device(mx::Device::gpu));
  for (const char* key : {"device_name", "architecture"}) {
    const auto entry = info.find(key);
    if (entry == info.end()) continue;
    if (const auto* value = std::get_if<std::string>(&entry->second)) text += *value + ", ";
  }
  return text + std::to_string(fast::cuda_compute_capability()) + ", " + gpu_driver();
}

/// The machine, as far as it decides what is fastest on it.
const std::string& machine() {
  static const std::string name = processor() + ", " + gpu();
  return name;
}

std::string full_key(const std::string& key) {
  return "zmlx " + build_info().version + ", MLX " + build_info().mlx_version + "," + machine() +
         ", " + cpu_target() + ", " + std::to_string(num_threads()) + " threads: " + key;
}

/// Choices of this process, so that later calls read no file.
struct Remembered {
  std::mutex mutex;
  std::map<std::string, size_t> choices;
};
Remembered& remembered() {
  static auto* instance = new Remembered;
  return *instance;
}

/// Turns for all that may still win; a candidate clearly behind the best drops out.
class Contest {
 public:
  Contest(size_t candidates, const std::function<void(size_t)>& run, const AutotuneOptions& options)
      : run_(run), options_(options), times_(candidates), left_(candidates) {
    std::iota(left_.begin(), left_.end(), size_t{0});
  }

  std::vector<double> decide() {
    for (size_t c : left_) run_(c);  // compiles, warms up
    const auto start = Clock::now();
    for (int round = 0; round < options_.max_rounds; ++round) {
      for (size_t c : left_) {
        const auto tic = Clock::now();
        run_(c);
        times_[c].push_back(seconds_since(tic));
      }
      if (round >= 2) drop_slow();
      if (left_.size() == 1 || seconds_since(start) > options_.max_seconds) break;
    }
    std::vector<double> medians;
    for (const auto& times : times_) medians.push_back(median(times));
    return medians;
  }

 private:
  static constexpr double kClearlySlower = 1.25;

  void drop_slow() {
    double best = median(times_[left_[0]]);
    for (size_t c : left_) best = std::min(best, median(times_[c]));
    std::erase_if(left_, [&](size_t c) {
      // Its best time too, so that one disturbance drops nobody.
      const double least = *std::min_element(times_[c].begin(), times_[c].end());
      return std::min(median(times_[c]), least) > kClearlySlower * best;
    });
  }

  const std::function<void(size_t)>& run_;
  const AutotuneOptions& options_;
  std::vector<std::vector<double>> times_;
  std::vector<size_t> left_;
};

}  // namespace

AutotuneResult autotune(size_t candidates, const std::function<void(size_t)>& run,
                        const AutotuneOptions& options) {
  if (candidates == 0) throw std::invalid_argument("[autotune] there are no candidates.");
  if (options.max_rounds < 1) {
    throw std::invalid_argument("[autotune] max_rounds must be at least 1.");
  }
  const bool keep = !options.key.empty();
  const auto key = keep ? full_key(options.key) + ", of " + std::to_string(candidates) : "";
  auto& [mutex, choices] = remembered();
  if (keep) {
    std::lock_guard lock(mutex);
    if (const auto found = choices.find(key); found != choices.end()) {
      return {found->second, true, {}};
    }
    if (const auto found = autotune_cache::load(key, candidates)) {
      choices[key] = *found;
      return {*found, true, {}};
    }
  }
  auto medians = Contest(candidates, run, options).decide();
  const auto least =
      static_cast<size_t>(std::min_element(medians.begin(), medians.end()) - medians.begin());
  const size_t best = medians[least] < (1 - options.margin) * medians[0] ? least : 0;
  if (keep) {
    std::lock_guard lock(mutex);
    choices[key] = best;
    autotune_cache::store(key, best, candidates);
  }
  return {best, false, std::move(medians)};
}

std::string autotune_cache_directory() { return autotune_cache::directory(); }

void clear_autotune_cache() {
  auto& [mutex, choices] = remembered();
  std::lock_guard lock(mutex);
  choices.clear();
  autotune_cache::clear();
}

}  // namespace zmlx
