#pragma once

#include <cstddef>
#include <cstdint>

/// What compiled kernels and the driver call of the Metal host. Kernels pass values and addresses
/// of their own stack only, so that every other address a kernel touches belongs to the kernel's
/// work.
extern "C" {

/// Where a kernel's argument comes from: a buffer (its index) or one of these.
enum MslSource : int {
  kThreadPositionInGrid = 100,
  kThreadgroupPositionInGrid,
  kThreadPositionInThreadgroup,
  kThreadIndexInThreadgroup,
  kThreadIndexInSimdgroup,
  kSimdgroupIndexInThreadgroup,
  kThreadsPerThreadgroup,
  kThreadsPerGrid,
  kThreadgroupsPerGrid,
  kThreadsPerSimdgroup,
  kSimdgroupsPerThreadgroup,
  kThreadIndexInQuadgroup,
  kQuadgroupIndexInThreadgroup,
};

/// A place in a kernel's source.
struct MslSite {
  const char* file;
  int line;
};

/// Combines what the lanes of a simdgroup brought, in place. Slots lie `stride` bytes apart.
using MslCombine = void (*)(void* slots, size_t stride, unsigned lanes);

void* msl_buffer(int index);
uint32_t msl_position(int source, int axis);
void msl_collective(MslCombine combine, void* value, size_t size, const char* what, MslSite site);
void msl_simdgroup_barrier(bool orders_threadgroup_memory, MslSite site);
void msl_threadgroup_barrier(bool orders_threadgroup_memory, MslSite site);
void* msl_threadgroup_array(size_t size, const char* name, MslSite site);
/// Checks an atomic access, which races with none.
void msl_atomic_access(const void* address, size_t size);
/// Which of the ways that MSL leaves open is taken: 0 or 1. See README.md.
int msl_variant();

/// One buffer of a launch.
struct MslBuffer {
  void* data;
  uint64_t size;    ///< bytes
  uint32_t offset;  ///< bytes by which it lies off a page's beginning
  uint32_t writable;
  const char* name;
};

struct MslLaunch {
  const char* kernel;
  void (*entry)();
  const void* image;  ///< any address in the kernel's library
  const MslBuffer* buffers;
  uint32_t buffer_count;
  uint32_t grid[3];        ///< threads
  uint32_t group_size[3];  ///< threads; "threadgroup" is a word of MSL
  uint32_t threads;        ///< of the operating system
  int32_t variant;
};

/// Runs a kernel over its grid; buffers that are writable are copied back.
/// @return 0, or 1 with the first fault's text in `message`.
int msl_launch(const MslLaunch* launch, char* message, size_t message_size);

}  // extern "C"
