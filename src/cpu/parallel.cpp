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
  // At some 10 GB/s or 20 GFLOP/s a thread these take 50 us, about what waking another costs in a
  // virtual machine. A tenth of that made the small model in models/ decode at half the speed.
  constexpr double kBytes = 500e3, kFlops = 1e6;
  const double worth = std::max(bytes / kBytes, flops / kFlops);
  return static_cast<int>(std::clamp(worth, 1.0, static_cast<double>(max_threads())));
}

Cores::Team& Cores::team() {
  thread_local Team team;
  return team;
}

#ifdef __linux__

namespace {
int thread_id() {
  thread_local const int id = gettid();
  return id;
}
}  // namespace

Cores::Cores() : caller_(thread_id()), team_(team()) {
  const int core = sched_getcpu();
  claim(core);
  if (core != team_.core) bar_workers(core);
  team_.count = 0;
}

void Cores::bar_workers(int core) {
  cpu_set_t others;
  if (core < 0 || core >= CPU_SETSIZE || sched_getaffinity(0, sizeof(others), &others) != 0) return;
  CPU_CLR(core, &others);
  if (CPU_COUNT(&others) == 0) return;
  const int count = std::min<int>(team_.count, Team::kMost);
  for (int i = 0; i < count; ++i) sched_setaffinity(team_.workers[i], sizeof(others), &others);
  team_.core = core;
}

bool Cores::claim(int core) {
  if (core < 0 || core >= kMaxCores) return true;
  const uint64_t bit = uint64_t{1} << (core % 64);
  return (taken_[core / 64].fetch_or(bit, std::memory_order_relaxed) & bit) == 0;
}

void Cores::take() {
  if (thread_id() == caller_) return;
  const int place = team_.count++;
  if (place < Team::kMost) team_.workers[place] = thread_id();
  if (claim(sched_getcpu())) return;
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

Cores::Cores() : caller_(0), team_(team()) {}
bool Cores::claim(int) { return true; }
void Cores::bar_workers(int) {}
void Cores::take() {}

#endif

}  // namespace zmlx::cpu
