#include "cpu/parallel.h"

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <numeric>
#include <thread>
#include <vector>

#ifdef __linux__
#include <sched.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>
#endif

namespace zmlx::cpu {
namespace {

using Clock = std::chrono::steady_clock;
using std::chrono::milliseconds;

/// Sum of i in [0, count), each added by whichever thread.
size_t sum_in_parallel(int threads, size_t count) {
  std::atomic<size_t> sum{0};
  parallel_for(threads, count, [&](size_t i) { sum += i; });
  return sum;
}

/// Whether a second thread joins a region that goes on until one does.
bool someone_joins() {
  const auto caller = std::this_thread::get_id();
  std::atomic<bool> joined{false};
  parallel_for(2, 2, [&](size_t) {
    if (std::this_thread::get_id() != caller) joined = true;
    const auto end = Clock::now() + std::chrono::seconds(5);
    while (!joined && Clock::now() < end) std::this_thread::yield();
  });
  return joined;
}

TEST(ParallelFor, CallsEachOnce) {
  for (int threads : {1, 2, 3, 8}) {
    for (size_t count : {0, 1, 2, 7, 1000}) {
      std::vector<std::atomic<int>> calls(count);
      parallel_for(threads, count, [&](size_t i) { ++calls[i]; });
      for (const auto& each : calls) ASSERT_EQ(each, 1);
    }
  }
  // Regions so short that workers come late to most of them.
  for (int i = 0; i < 20000; ++i) ASSERT_EQ(sum_in_parallel(3, 5), 10u);
}

TEST(ParallelFor, WorkersJoinAwakeOrAsleep) {
  EXPECT_TRUE(someone_joins());
  EXPECT_TRUE(someone_joins());
  std::this_thread::sleep_for(milliseconds(20));
  EXPECT_TRUE(someone_joins());
}

TEST(ParallelFor, CallersAtOnceAndRegionsWithinRegions) {
  std::vector<std::thread> callers;
  std::atomic<int> wrong{0};
  for (int t = 0; t < 4; ++t) {
    callers.emplace_back([&] {
      for (int i = 0; i < 2000; ++i) wrong += sum_in_parallel(2, 100) != 4950;
    });
  }
  for (auto& caller : callers) caller.join();
  EXPECT_EQ(wrong, 0);
  std::atomic<size_t> sum{0};
  parallel_for(2, 10, [&](size_t) { sum += sum_in_parallel(2, 100); });
  EXPECT_EQ(sum, 49500u);
}

#ifdef __linux__

TEST(ParallelFor, WorkersSleepWhenThereIsNothingToDo) {
  ASSERT_TRUE(someone_joins());
  std::this_thread::sleep_for(milliseconds(20));
  const auto cpu_time = [] {
    rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    const auto micros = [](const timeval& t) { return t.tv_sec * 1e6 + t.tv_usec; };
    return micros(usage.ru_utime) + micros(usage.ru_stime);
  };
  const double before = cpu_time();
  std::this_thread::sleep_for(milliseconds(200));
  EXPECT_LT(cpu_time() - before, 20e3);
}

TEST(ParallelFor, AForkedChildHasWorkersOfItsOwn) {
  ASSERT_TRUE(someone_joins());
  const pid_t child = fork();
  ASSERT_GE(child, 0);
  if (child == 0) _exit(someone_joins() && sum_in_parallel(2, 100) == 4950 ? 0 : 1);
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << status;
}

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

/// The worker's core in a region of two threads; -1 if none joined.
int core_of_worker() {
  const auto caller = std::this_thread::get_id();
  std::atomic<int> core{-1};
  parallel_for(2, 2, [&](size_t) {
    if (std::this_thread::get_id() != caller) core = sched_getcpu();
    const auto end = Clock::now() + std::chrono::seconds(5);
    while (core < 0 && Clock::now() < end) std::this_thread::yield();
  });
  return core;
}

TEST(ParallelFor, AWorkerLeavesItsCallersCore) {
  const auto all = allowed();
  if (CPU_COUNT(&all) < 2) GTEST_SKIP() << "one core only";
  bool compared = false;
  for (int i = 0; i < 100 && !compared; ++i) {
    // The caller moves to each core in turn.
    int core = 0;
    for (int skip = i % CPU_COUNT(&all); skip > 0 || !CPU_ISSET(core, &all); ++core) {
      if (CPU_ISSET(core, &all)) --skip;
    }
    allow(only(core));
    allow(all);
    const int before = sched_getcpu();
    const int worker = core_of_worker();
    if (sched_getcpu() != before) continue;  // the caller was moved meanwhile
    compared = i > 0;
    EXPECT_NE(worker, before);
  }
  EXPECT_TRUE(compared);
}

TEST(ParallelFor, RunsWhereOneCoreIsAllThereIs) {
  const auto all = allowed();
  allow(only(sched_getcpu()));
  EXPECT_EQ(sum_in_parallel(2, 100), 4950u);
  EXPECT_TRUE(someone_joins());
  allow(all);
}

#endif

}  // namespace
}  // namespace zmlx::cpu
