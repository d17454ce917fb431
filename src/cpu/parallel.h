#pragma once

#include <cstddef>

/// Threads of the CPU kernels.
namespace zmlx::cpu {

/// Threads that a kernel may use.
int max_threads();
void set_max_threads(int threads);

/// Threads worth waking for reading `bytes` or doing `flops`: waking one costs some microseconds.
int threads_for(double bytes, double flops);

/// Calls call(context, i) once for each i in [0, count), on the calling thread and up to `threads`
/// - 1 workers; each begins with a range of its own. Of two callers at once the second is alone.
void run_parallel(int threads, size_t count, void (*call)(const void* context, size_t i),
                  const void* context) noexcept;

/// The same with body(i).
template <typename Body>
void parallel_for(int threads, size_t count, const Body& body) {
  const auto call = [](const void* context, size_t i) { (*static_cast<const Body*>(context))(i); };
  run_parallel(threads, count, call, &body);
}

}  // namespace zmlx::cpu
