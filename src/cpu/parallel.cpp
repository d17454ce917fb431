#include "cpu/parallel.h"

#ifdef __linux__
#include <sched.h>
#include <unistd.h>
#endif
#include <pthread.h>
#include <signal.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <thread>
#include <vector>

#include "hwy/cache_control.h"

namespace zmlx::cpu {

namespace {

/// How long a worker looks for more work before it sleeps. Waking it costs the caller some 10 us in
/// a virtual machine, and it comes 50 us later; the operations of a layer follow each other within
/// that.
constexpr std::chrono::microseconds kSpin{60};

/// What a region's last unit may take; after that whoever waits for it offers its core.
constexpr int kPausesBeforeYield = 2000;

constexpr int kMaxWorkers = 255;

int available_cores() {
#ifdef __linux__
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof(set), &set) == 0) return CPU_COUNT(&set);
#endif
  return std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
}

/// OMP_NUM_THREADS if it is set, as other libraries of this kind have it; at most all cores.
int default_threads() {
  const int cores = available_cores();
  const char* text = std::getenv("OMP_NUM_THREADS");
  const int wanted = text ? std::atoi(text) : 0;
  return wanted > 0 ? std::min(wanted, cores) : cores;
}

std::atomic<int> limit{0};

/// Keeps the threads of one region on cores of their own.
///
/// Linux may wake a worker on its waker's core and leave it there for milliseconds while another
/// core idles, so that two threads take as long as one: on two cores of a virtual machine that
/// happened in most calls that followed a pause. So the caller bars workers from its own core
/// before it wakes them, which costs a microsecond when it has moved and nothing when it has not;
/// and a worker that finds its core taken moves off.
class Cores {
 public:
#ifdef __linux__
  /// On the calling thread, before the region.
  void begin(const std::vector<std::atomic<int>>& workers, size_t count) {
    caller_ = thread_id();
    for (auto& word : taken_) word.store(0, std::memory_order_relaxed);
    const int core = sched_getcpu();
    claim(core);
    if (core != barred_ || count != barred_count_) bar(workers, count, core);
  }
  /// On each worker, when it joins the region.
  void take() {
    const int core = sched_getcpu();
    if (claim(core)) return;
    // The caller's own mask says what the process may use; a worker's may be narrowed already.
    cpu_set_t free;
    if (sched_getaffinity(caller_, sizeof(free), &free) != 0) return;
    for (int c = 0; c < std::min(kMaxCores, CPU_SETSIZE); ++c) {
      if (taken_[c / 64].load(std::memory_order_relaxed) >> (c % 64) & 1) CPU_CLR(c, &free);
    }
    if (CPU_COUNT(&free) == 0 || sched_setaffinity(0, sizeof(free), &free) != 0) return;
    claim(sched_getcpu());
  }
  static int thread_id() {
    thread_local const int id = gettid();
    return id;
  }

 private:
  void bar(const std::vector<std::atomic<int>>& workers, size_t count, int core) {
    cpu_set_t others;
    if (core < 0 || core >= CPU_SETSIZE) return;
    if (sched_getaffinity(0, sizeof(others), &others) != 0) return;
    CPU_CLR(core, &others);
    if (CPU_COUNT(&others) == 0) return;
    for (size_t i = 0; i < count; ++i) {
      const int id = workers[i].load(std::memory_order_acquire);
      if (id == 0) return;  // has not started yet: next time
      sched_setaffinity(id, sizeof(others), &others);
    }
    barred_ = core;
    barred_count_ = count;
  }
  bool claim(int core) {
    if (core < 0 || core >= kMaxCores) return true;
    const uint64_t bit = uint64_t{1} << (core % 64);
    return (taken_[core / 64].fetch_or(bit, std::memory_order_relaxed) & bit) == 0;
  }

  static constexpr int kMaxCores = 1024;
  std::array<std::atomic<uint64_t>, kMaxCores / 64> taken_{};
  int caller_ = 0;  ///< thread id
  int barred_ = -1;
  size_t barred_count_ = 0;
#else
  void begin(const std::vector<std::atomic<int>>&, size_t) {}
  void take() {}
  static int thread_id() { return 1; }
#endif
};

/// Workers, and the region that they work in, one at a time.
///
/// A region is never held up by a worker that is late: it joins while there is work, or not at all,
/// and the caller waits only for those that have joined.
class Pool {
 public:
  void run(int threads, size_t count, void (*call)(const void*, size_t), const void* context) {
    if (threads <= 1 || count <= 1 || busy_.exchange(true, std::memory_order_acquire)) {
      for (size_t i = 0; i < count; ++i) call(context, i);
      return;
    }
    const size_t wanted =
        std::min({static_cast<size_t>(threads) - 1, count - 1, size_t{kMaxWorkers}});
    while (started_ < wanted) start();
    call_ = call;
    context_ = context;
    threads_ = wanted + 1;
    for (size_t t = 0; t < threads_; ++t) {
      ranges_[t].next.store(t * count / threads_, std::memory_order_relaxed);
      ranges_[t].end = (t + 1) * count / threads_;
    }
    left_.store(0, std::memory_order_relaxed);
    cores_.begin(ids_, started_);
    epoch_ += 1u << kSeatBits;
    seats_.store(epoch_ | static_cast<uint32_t>(wanted), std::memory_order_seq_cst);
    if (asleep_.load(std::memory_order_seq_cst) > 0) {
      for (size_t i = 0; i < wanted; ++i) seats_.notify_one();
    }
    work(0);
    const uint32_t seats = seats_.exchange(epoch_, std::memory_order_acquire);
    const auto joined = static_cast<uint32_t>(wanted) - (seats & kSeats);
    for (int pauses = 0; left_.load(std::memory_order_acquire) != joined; ++pauses) {
      if (pauses < kPausesBeforeYield) {
        hwy::Pause();
      } else {
        std::this_thread::yield();
      }
    }
    busy_.store(false, std::memory_order_release);
  }

 private:
  struct alignas(64) Range {
    std::atomic<size_t> next{0};
    size_t end = 0;
  };

  /// `seats_` holds the region's number and how many workers may still join it.
  static constexpr int kSeatBits = 8;
  static constexpr uint32_t kSeats = (1u << kSeatBits) - 1;

  void start() {
    // Signals are for the program's own threads.
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    std::thread([this, number = started_] { serve(number); }).detach();
    pthread_sigmask(SIG_SETMASK, &before, nullptr);
    ++started_;
  }

  /// A thread's own range first, then what others have left of theirs: neighbours in memory are
  /// read by one thread, whose fetching ahead is of use.
  void work(size_t thread) {
    for (size_t t = 0; t < threads_; ++t) {
      auto& range = ranges_[(thread + t) % threads_];
      for (size_t i; (i = range.next.fetch_add(1, std::memory_order_relaxed)) < range.end;) {
        call_(context_, i);
      }
    }
  }

  void serve(size_t number) {
    ids_[number].store(Cores::thread_id(), std::memory_order_release);
    uint32_t seen = 0;
    for (;;) {
      uint32_t seats = next_region(seen);
      seen = seats & ~kSeats;
      while ((seats & ~kSeats) == seen && (seats & kSeats) > 0) {
        if (!seats_.compare_exchange_weak(seats, seats - 1, std::memory_order_acquire)) continue;
        cores_.take();
        work(threads_ - (seats & kSeats));
        left_.fetch_add(1, std::memory_order_release);
        break;
      }
    }
  }

  /// Waits for a region other than `seen` that can be joined.
  uint32_t next_region(uint32_t seen) {
    const auto is_new = [&](uint32_t seats) { return (seats & ~kSeats) != seen && seats & kSeats; };
    const auto end = std::chrono::steady_clock::now() + kSpin;
    do {
      for (int i = 0; i < 32; ++i) {
        const uint32_t seats = seats_.load(std::memory_order_acquire);
        if (is_new(seats)) return seats;
        hwy::Pause();
      }
    } while (std::chrono::steady_clock::now() < end);
    asleep_.fetch_add(1, std::memory_order_seq_cst);
    uint32_t seats = seats_.load(std::memory_order_seq_cst);
    for (; !is_new(seats); seats = seats_.load(std::memory_order_seq_cst)) seats_.wait(seats);
    asleep_.fetch_sub(1, std::memory_order_relaxed);
    return seats;
  }

  alignas(64) std::atomic<uint32_t> seats_{0};
  std::atomic<int> asleep_{0};
  alignas(64) std::atomic<uint32_t> left_{0};  ///< workers that have joined and are done
  alignas(64) std::atomic<bool> busy_{false};
  void (*call_)(const void*, size_t) = nullptr;
  const void* context_ = nullptr;
  size_t threads_ = 1, started_ = 0;
  uint32_t epoch_ = 0;
  Cores cores_;
  std::vector<Range> ranges_ = std::vector<Range>(kMaxWorkers + 1);
  std::vector<std::atomic<int>> ids_ = std::vector<std::atomic<int>>(kMaxWorkers);
};

/// Never destroyed: workers are about until the process ends. A child of fork has none of them, so
/// it begins with a pool of its own.
std::atomic<Pool*> pool{nullptr};

Pool& the_pool() {
  static const bool registered = [] {
    pthread_atfork(nullptr, nullptr, [] { pool.store(nullptr); });
    return true;
  }();
  (void)registered;
  Pool* existing = pool.load(std::memory_order_acquire);
  if (existing) return *existing;
  auto* created = new Pool;
  if (pool.compare_exchange_strong(existing, created)) return *created;
  delete created;
  return *existing;
}

}  // namespace

int max_threads() {
  static const int all = default_threads();
  const int set = limit;
  return set > 0 ? set : all;
}

void set_max_threads(int threads) { limit = threads; }

int threads_for(double bytes, double flops) {
  // At some 10 GB/s or 20 GFLOP/s a thread these take 50 us, about what waking another costs in a
  // virtual machine. A tenth of that made the small model in models/ decode at half the speed.
  constexpr double kBytes = 500e3, kFlops = 1e6;
  const double worth = std::max(bytes / kBytes, flops / kFlops);
  return static_cast<int>(std::clamp(worth, 1.0, static_cast<double>(max_threads())));
}

void run_parallel(int threads, size_t count, void (*call)(const void* context, size_t i),
                  const void* context) noexcept {
  if (threads <= 1 || count <= 1) {
    for (size_t i = 0; i < count; ++i) call(context, i);
  } else {
    the_pool().run(threads, count, call, context);
  }
}

}  // namespace zmlx::cpu
