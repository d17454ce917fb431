#pragma once

#include <array>
#include <atomic>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "kernel/cpu_elementwise.h"
#include "kernel/gpu_launch.h"

namespace zmlx::kernel {

/// What `Kernel::tune` found, by the magnitude of an array's size.
class TunedLaunches {
 public:
  CpuLaunch get(size_t size) const {
    const uint64_t packed = launches_[std::bit_width(size)].load(std::memory_order_relaxed);
    return {static_cast<int>(packed >> 32), static_cast<int>(packed & 0xFFFFFFFF)};
  }
  void set(size_t size, CpuLaunch launch) {
    launches_[std::bit_width(size)] =
        static_cast<uint64_t>(launch.block) << 32 | static_cast<uint32_t>(launch.threads);
  }
  GpuLaunch gpu(size_t size) const {
    const uint64_t packed = gpu_launches_[std::bit_width(size)].load(std::memory_order_relaxed);
    return {static_cast<int>(packed >> 32), static_cast<int>(packed & 0xFFFFFFFF)};
  }
  void set(size_t size, GpuLaunch launch) {
    gpu_launches_[std::bit_width(size)] =
        static_cast<uint64_t>(launch.threads) << 32 | static_cast<uint32_t>(launch.vectors);
  }

 private:
  std::array<std::atomic<uint64_t>, 65> launches_{}, gpu_launches_{};
};

/// What is tried; the first is what the library chooses by itself.
std::vector<CpuLaunch> launch_candidates();
std::vector<GpuLaunch> gpu_launch_candidates(bool rows);

}  // namespace zmlx::kernel
