#pragma once

#include <cstddef>

/// Threads of the CPU kernels.
namespace zmlx::cpu {

/// Threads that a kernel may use.
int max_threads();
void set_max_threads(int threads);

/// Threads worth waking for reading `bytes` or doing `flops`: waking one costs some microseconds.
int threads_for(double bytes, double flops);

/// Runs body() on each of `threads` threads, where `omp for` inside it shares work among them.
template <typename Body>
void on_threads(int threads, const Body& body) {
  if (threads == 1) return body();
#pragma omp parallel num_threads(threads)
  body();
}

}  // namespace zmlx::cpu
