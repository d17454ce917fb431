#pragma once

#include <array>
#include <atomic>
#include <cstdint>

/// Threads of the CPU kernels.
namespace zmlx::cpu {

/// Threads that a kernel may use.
int max_threads();
void set_max_threads(int threads);

/// Threads worth waking for reading `bytes` or doing `flops`: waking one costs some microseconds.
int threads_for(double bytes, double flops);

/// Keeps the threads of one parallel region on cores of their own.
///
/// Linux may wake a worker on its waker's core and leave it there for milliseconds while another
/// core idles, so that two threads take as long as one: on two cores of a virtual machine that
/// happened in most calls that followed a pause. So the caller bars its workers of last time from
/// its own core before it wakes them, which costs a microsecond when it has moved and nothing when
/// it has not; and a worker that finds its core taken moves off.
class Cores {
 public:
  /// On the calling thread, before the region.
  Cores();
  /// On each thread of the region, first.
  void take();

 private:
  /// The workers of a caller's last region.
  struct Team {
    static constexpr int kMost = 256;
    int core = -1;  ///< that they are barred from
    std::atomic<int> count{0};
    std::array<int, kMost> workers;  ///< thread ids
  };
  static Team& team();
  bool claim(int core);
  void bar_workers(int core);

  static constexpr int kMaxCores = 1024;
  std::array<std::atomic<uint64_t>, kMaxCores / 64> taken_{};
  int caller_;  ///< thread id
  Team& team_;
};

/// Runs body() on each of `threads` threads, where `omp for` inside it shares work among them.
template <typename Body>
void on_threads(int threads, const Body& body) {
  if (threads == 1) return body();
  Cores cores;
#pragma omp parallel num_threads(threads)
  {
    cores.take();
    body();
  }
}

}  // namespace zmlx::cpu
