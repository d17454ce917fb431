#include "cpu/parallel.h"

#include <omp.h>

#include <algorithm>
#include <atomic>

namespace zmlx::cpu {

namespace {
std::atomic<int> limit{0};
}  // namespace

int max_threads() {
  const int set = limit;
  return set > 0 ? set : std::min(omp_get_max_threads(), omp_get_num_procs());
}

void set_max_threads(int threads) { limit = threads; }

int threads_for(double bytes, double flops) {
  // At some 10 GB/s or 20 GFLOP/s a thread these take 3 us, about what waking another costs.
  constexpr double kBytes = 32e3, kFlops = 60e3;
  const double worth = std::max(bytes / kBytes, flops / kFlops);
  return static_cast<int>(std::clamp(worth, 1.0, static_cast<double>(max_threads())));
}

}  // namespace zmlx::cpu
