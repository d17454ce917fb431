#include "zmlx/runtime.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <stdexcept>

#include "cpu/aligned.h"
#include "cpu/bandwidth.h"
#include "cpu/huge_pages.h"
#include "cpu/parallel.h"
#include "cpu/target.h"
#include "hwy/highway.h"
#include "mlx/version.h"

namespace zmlx {

namespace {

#define ZMLX_STRING_(x) #x
#define ZMLX_STRING(x) ZMLX_STRING_(x)

/// What a thread takes at a time when the bandwidth is measured.
constexpr size_t kBlockBytes = size_t{1} << 20;

cpu::AlignedArray<uint8_t> filled(size_t bytes, uint8_t value) {
  auto buffer = cpu::allocate_aligned<uint8_t>(bytes);
  std::memset(buffer.get(), value, bytes);
  return buffer;
}

/// Seconds of each of `repeats` passes of body(first byte, bytes) over all blocks, after one more.
template <typename Body>
std::vector<double> time_passes(size_t bytes, int threads, int repeats, const Body& body) {
  if (threads < 1 || repeats < 1) {
    throw std::invalid_argument("threads and repeats must be at least 1.");
  }
  const size_t block = std::min(kBlockBytes, bytes / 1024 * 1024);
  const size_t blocks = block > 0 ? bytes / block : 0;
  std::vector<double> seconds;
  for (int i = 0; i <= repeats; ++i) {
    const auto start = std::chrono::steady_clock::now();
    cpu::parallel_for(threads, blocks, [&](size_t b) { body(b * block, block); });
    const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - start;
    if (i > 0) {
      // What rounding to whole blocks left out is scaled back in.
      const auto done = static_cast<double>(std::max<size_t>(1, blocks * block));
      seconds.push_back(elapsed.count() * static_cast<double>(bytes) / done);
    }
  }
  return seconds;
}

}  // namespace

BuildInfo build_info() {
  return {ZMLX_VERSION,
          ZMLX_GIT_COMMIT,
#if defined(__clang__)
          "Clang " __clang_version__,
#else
          "GCC " __VERSION__,
#endif
          ZMLX_BUILD_TYPE,
          ZMLX_STRING(MLX_VERSION_MAJOR) "." ZMLX_STRING(MLX_VERSION_MINOR) "." ZMLX_STRING(
              MLX_VERSION_PATCH),
          ZMLX_STRING(HWY_MAJOR) "." ZMLX_STRING(HWY_MINOR) "." ZMLX_STRING(HWY_PATCH)};
}

std::string cpu_target() { return cpu::target(); }

std::vector<std::string> cpu_targets() { return cpu::targets(); }

void set_cpu_target(const std::string& name) { cpu::set_target(name); }

int num_threads() { return cpu::max_threads(); }

void set_num_threads(int threads) {
  if (threads < 1) {
    throw std::invalid_argument("[set_num_threads] threads must be at least 1, but is " +
                                std::to_string(threads) + ".");
  }
  cpu::set_max_threads(threads);
}

std::vector<double> read_bandwidth(size_t bytes, int threads, int repeats) {
  const auto buffer = filled(bytes, 1);
  cpu::use_huge_pages(buffer.get(), bytes);  // as patched models' weights
  std::atomic<uint64_t> sink{0};
  auto seconds = time_passes(bytes, threads, repeats, [&](size_t begin, size_t size) {
    sink += cpu::read_all(buffer.get() + begin, size);
  });
  volatile uint64_t keep = sink;
  (void)keep;
  return seconds;
}

std::vector<double> copy_bandwidth(size_t bytes, int threads, int repeats) {
  const auto from = filled(bytes, 1);
  const auto to = filled(bytes, 0);
  return time_passes(bytes, threads, repeats, [&](size_t begin, size_t size) {
    cpu::copy_all(from.get() + begin, size, to.get() + begin);
  });
}

size_t use_huge_pages(const mlx::core::array& a) {
  if (!a.is_available()) return 0;
  return cpu::use_huge_pages(a.data<char>(), a.data_size() * a.itemsize());
}

}  // namespace zmlx
