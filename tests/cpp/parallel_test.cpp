#include "cpu/parallel.h"

#include <gtest/gtest.h>
#include <omp.h>

#ifdef __linux__
#include <sched.h>

namespace zmlx::cpu {
namespace {

cpu_set_t allowed() {
  cpu_set_t set;
  sched_getaffinity(0, sizeof(set), &set);
  return set;
}

void allow(const cpu_set_t& set) { ASSERT_EQ(sched_setaffinity(0, sizeof(set), &set), 0); }

cpu_set_t only(int core) {
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(core, &set);
  return set;
}

/// The worker's core in a region of two threads; -1 if there was no second thread.
int core_of_worker() {
  int core = -1;
  on_threads(2, [&] {
    if (omp_get_thread_num() == 1) core = sched_getcpu();
  });
  return core;
}

TEST(OnThreads, AWorkerLeavesItsCallersCore) {
  const auto all = allowed();
  if (CPU_COUNT(&all) < 2) GTEST_SKIP() << "one core only";
  // A worker made while its caller may use one core only starts on that core and stays there.
  const int core = sched_getcpu();
  allow(only(core));
  EXPECT_EQ(core_of_worker(), core);
  allow(all);
  bool compared = false;
  for (int i = 0; i < 100 && !compared; ++i) {
    const int before = sched_getcpu();
    const int worker = core_of_worker();
    if (sched_getcpu() != before) continue;  // the caller was moved meanwhile
    compared = true;
    EXPECT_NE(worker, before);
  }
  EXPECT_TRUE(compared);
}

TEST(OnThreads, RunsWhereOneCoreIsAllThereIs) {
  const auto all = allowed();
  allow(only(sched_getcpu()));
  int sum = 0;
  on_threads(2, [&] {
#pragma omp for reduction(+ : sum)
    for (int i = 0; i < 100; ++i) sum += i;
  });
  EXPECT_EQ(sum, 4950);
  allow(all);
}

}  // namespace
}  // namespace zmlx::cpu
#endif
