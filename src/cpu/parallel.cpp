#include "cpu/parallel.h"

#include <omp.h>
#ifdef __linux__
#include <sched.h>
#include <unistd.h>
#endif

#include <algorithm>

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

#ifdef __linux__

Cores::Cores() : caller_(gettid()) { claim(sched_getcpu()); }

bool Cores::claim(int core) {
  if (core < 0 || core >= kMaxCores) return true;
  const uint64_t bit = uint64_t{1} << (core % 64);
  return (taken_[core / 64].fetch_or(bit, std::memory_order_relaxed) & bit) == 0;
}

void Cores::take() {
  if (gettid() == caller_ || claim(sched_getcpu())) return;
  // The caller's own mask says what the process may use; a worker's may be narrowed already.
  cpu_set_t free;
  if (sched_getaffinity(caller_, sizeof(free), &free) != 0) return;
  for (int core = 0; core < std::min(kMaxCores, CPU_SETSIZE); ++core) {
    if (taken_[core / 64].load(std::memory_order_relaxed) >> (core % 64) & 1) CPU_CLR(core, &free);
  }
  if (CPU_COUNT(&free) == 0 || sched_setaffinity(0, sizeof(free), &free) != 0) return;
  claim(sched_getcpu());
}

#else

Cores::Cores() : caller_(0) {}
bool Cores::claim(int) { return true; }
void Cores::take() {}

#endif

}  // namespace zmlx::cpu
