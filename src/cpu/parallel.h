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

/// The cores that the threads of one parallel region run on.
///
/// Linux may wake a worker on its waker's core and leave it there for milliseconds while another
/// core idles, so that two threads take as long as one: on two cores of a virtual machine that
/// happened in most calls that followed a pause. A worker that finds its core taken moves off.
class Cores {
 public:
  /// Takes the core of the calling thread, the one that workers keep away from.
  Cores();
  /// Called by each thread of the region; moves a worker whose core is taken already.
  void take();

 private:
  bool claim(int core);
  static constexpr int kMaxCores = 1024;
  std::array<std::atomic<uint64_t>, kMaxCores / 64> taken_{};
  int caller_;  ///< thread id
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
