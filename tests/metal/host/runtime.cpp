#include "runtime.h"

#include <dlfcn.h>
#include <link.h>
#include <sys/mman.h>

#include <atomic>
#include <cstdarg>
#include <cstdio>
#include <cstring>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "access.h"
#include "device_memory.h"
#include "fiber.h"
#include "threadgroup_memory.h"

/// Lanes are fibers. Those of a simdgroup run until each waits at a simd operation; then the
/// operation is carried out for all and they go on. Threadgroups are dealt to threads of the
/// operating system.
namespace msl {

namespace {

constexpr unsigned kLanes = 32;
constexpr size_t kMaxOperand = 256;

enum class Wait { none, collective, simdgroup_barrier, threadgroup_barrier, done };

struct Lane {
  Fiber fiber;
  uint32_t index;        // in the threadgroup
  uint32_t position[3];  // in the threadgroup
  Wait wait;
  const char* what;
  MslSite site;
  bool orders_memory;
  MslCombine combine;
  size_t operand_size;
  size_t arrays;  // threadgroup arrays declared so far
  alignas(64) unsigned char operand[kMaxOperand];
};

/// What all threads of the operating system share in a launch.
struct Shared {
  const MslLaunch& launch;
  uint32_t groups[3] = {};
  ImageRange image = {};
  std::vector<BufferView> buffers = {};
  std::atomic<uint64_t> next{0};
  std::atomic<bool> failed{false};
  std::mutex mutex = {};
  std::string message = {};
};

/// One threadgroup at work on one thread of the operating system.
struct Worker {
  Shared* shared = nullptr;
  std::vector<std::unique_ptr<Lane>> lanes;
  uint32_t lane_count = 0;
  uint32_t group[3] = {};
  uint32_t size[3] = {};  // of this threadgroup
  ThreadgroupMemory memory;
  Lane* current = nullptr;
  Context scheduler;
};

thread_local Worker* worker = nullptr;

/// Noinline, as a fiber must not keep the address of a thread's variable over a switch.
[[gnu::noinline]] Worker& here() { return *worker; }

std::string format(const char* text, ...) {
  char buffer[1024];
  va_list arguments;
  va_start(arguments, text);
  vsnprintf(buffer, sizeof(buffer), text, arguments);
  va_end(arguments);
  return buffer;
}

std::string who(const Worker& w, const Lane& lane) {
  return format("thread (%u, %u, %u) of threadgroup (%u, %u, %u), lane %u of simdgroup %u",
                lane.position[0], lane.position[1], lane.position[2], w.group[0], w.group[1],
                w.group[2], lane.index % kLanes, lane.index / kLanes);
}

void report(const std::string& text) {
  auto& shared = *here().shared;
  std::lock_guard lock(shared.mutex);
  if (!shared.failed.exchange(true)) {
    shared.message = std::string("[") + shared.launch.kernel + "] " + text;
  }
}

void yield() {
  auto& w = here();
  switch_context(w.current->fiber.context, w.scheduler);
}

void wait_at(Wait wait, const char* what, MslSite site) {
  auto& lane = *here().current;
  lane.wait = wait;
  lane.what = what;
  lane.site = site;
  yield();
}

void lane_main() {
  auto& w = here();
  w.shared->launch.entry();
  auto& after = here();
  after.current->wait = Wait::done;
  yield();
  __builtin_unreachable();
}

void resume(Worker& w, Lane& lane) {
  w.current = &lane;
  lane.wait = Wait::none;
  switch_context(w.scheduler, lane.fiber.context);
  w.current = nullptr;
}

bool same_place(const Lane& a, const Lane& b) {
  if (a.wait != b.wait) return false;
  return a.wait == Wait::done || (a.site.line == b.site.line && !strcmp(a.site.file, b.site.file) &&
                                  !strcmp(a.what, b.what) && a.combine == b.combine);
}

std::string state(const Lane& lane) {
  if (lane.wait == Wait::done) return "has ended";
  return std::string("waits at ") + lane.what + " (" + place(lane.site) + ")";
}

bool check_together(Worker& w, const Lane& first, const Lane& other, const char* set) {
  if (same_place(first, other)) return true;
  report(std::string("divergence: of one ") + set + ", " + who(w, first) + " " + state(first) +
         ", while " + who(w, other) + " " + state(other));
  return false;
}

void combine(Worker& w, uint32_t first, uint32_t count) {
  alignas(64) static thread_local unsigned char slots[kLanes * kMaxOperand];
  const auto& lane = *w.lanes[first];
  for (uint32_t i = 0; i < count; ++i) {
    memcpy(slots + i * lane.operand_size, w.lanes[first + i]->operand, lane.operand_size);
  }
  lane.combine(slots, lane.operand_size, count);
  for (uint32_t i = 0; i < count; ++i) {
    memcpy(w.lanes[first + i]->operand, slots + i * lane.operand_size, lane.operand_size);
  }
}

/// Runs one simdgroup until all its lanes wait at a threadgroup barrier or have ended.
bool run_simdgroup(Worker& w, uint32_t simdgroup) {
  const auto first = simdgroup * kLanes;
  const auto count = std::min(kLanes, w.lane_count - first);
  const bool backwards = w.shared->launch.variant != 0;
  while (true) {
    for (uint32_t i = 0; i < count; ++i) {
      resume(w, *w.lanes[first + (backwards ? count - 1 - i : i)]);
      if (w.shared->failed) return false;
    }
    const auto& lane = *w.lanes[first];
    for (uint32_t i = 1; i < count; ++i) {
      if (!check_together(w, lane, *w.lanes[first + i], "simdgroup")) return false;
    }
    if (lane.wait == Wait::done || lane.wait == Wait::threadgroup_barrier) return true;
    if (lane.wait == Wait::collective) combine(w, first, count);
    if (lane.wait == Wait::simdgroup_barrier && lane.orders_memory) {
      w.memory.pass_simdgroup_barrier(simdgroup);
    }
  }
}

void run_threadgroup(Worker& w) {
  const auto simdgroups = (w.lane_count + kLanes - 1) / kLanes;
  for (uint32_t i = 0; i < w.lane_count; ++i) {
    auto& lane = *w.lanes[i];
    lane.index = i;
    lane.position[0] = i % w.size[0];
    lane.position[1] = i / w.size[0] % w.size[1];
    lane.position[2] = i / (w.size[0] * w.size[1]);
    lane.arrays = 0;
    lane.fiber.start(lane_main);
  }
  w.memory.reset();
  while (true) {
    for (uint32_t s = 0; s < simdgroups; ++s) {
      if (!run_simdgroup(w, w.shared->launch.variant ? simdgroups - 1 - s : s)) return;
    }
    const auto& first = *w.lanes[0];
    for (uint32_t s = 1; s < simdgroups; ++s) {
      if (!check_together(w, first, *w.lanes[s * kLanes], "threadgroup")) return;
    }
    if (first.wait == Wait::done) return;
    if (first.orders_memory) w.memory.pass_threadgroup_barrier();
  }
}

/// A threadgroup at the grid's end has fewer threads, as `dispatchThreads` makes it.
void take_threadgroups(Shared& shared) {
  static thread_local Worker own;
  own.shared = &shared;
  own.current = nullptr;
  worker = &own;
  const auto* groups = shared.groups;
  const auto total = uint64_t(groups[0]) * groups[1] * groups[2];
  while (!shared.failed) {
    const auto i = shared.next++;
    if (i >= total) break;
    own.group[0] = i % groups[0];
    own.group[1] = i / groups[0] % groups[1];
    own.group[2] = i / (uint64_t(groups[0]) * groups[1]);
    own.lane_count = 1;
    for (int axis = 0; axis < 3; ++axis) {
      const auto full = shared.launch.group_size[axis];
      own.size[axis] = std::min(full, shared.launch.grid[axis] - own.group[axis] * full);
      own.lane_count *= own.size[axis];
    }
    while (own.lanes.size() < own.lane_count) own.lanes.push_back(std::make_unique<Lane>());
    run_threadgroup(own);
  }
}

}  // namespace

bool in_kernel() { return worker && worker->current; }

std::string place(const MslSite& site) {
  const char* slash = strrchr(site.file, '/');
  return format("%s:%d", slash ? slash + 1 : site.file, site.line);
}

void fault(const std::string& text) {
  auto& w = here();
  report(text + ", by " + who(w, *w.current));
  w.current->wait = Wait::done;
  Context abandoned;
  switch_context(abandoned, w.scheduler);
  __builtin_unreachable();
}

std::string buffer_at(uintptr_t address) {
  const auto& buffers = here().shared->buffers;
  const auto slot = device_slot(address);
  if (slot < 0 || slot >= int(buffers.size())) return {};
  const auto offset = address - reinterpret_cast<uintptr_t>(buffers[slot].data);
  return format(": byte %lld of buffer %d ('%s')", static_cast<long long>(offset), slot,
                buffers[slot].name);
}

void check_access(const void* pointer, size_t size, bool store) {
  auto* w = worker;
  if (!w || !w->current) return;
  const auto& stack = w->current->fiber;
  const auto address = reinterpret_cast<uintptr_t>(pointer);
  if (address >= stack.low() && address + size <= stack.high()) return;
  const char* verb = store ? "writes" : "reads";
  if (w->memory.holds(address)) {
    auto problem = w->memory.access(address, size, store, w->current->index);
    if (!problem.empty()) fault(std::string(verb) + " " + problem);
    return;
  }
  if (auto slot = device_slot(address); slot >= 0) {
    if (slot >= int(w->shared->buffers.size())) {
      fault(format("%s far outside of any buffer", verb));
    }
    const auto& buffer = w->shared->buffers[slot];
    const auto offset = static_cast<int64_t>(address - reinterpret_cast<uintptr_t>(buffer.data));
    if (offset < 0 || uint64_t(offset) + size > buffer.size) {
      fault(format("%s out of bounds: %zu bytes at byte %lld of buffer %d ('%s', %llu bytes)", verb,
                   size, static_cast<long long>(offset), slot, buffer.name,
                   static_cast<unsigned long long>(buffer.size)));
    }
    if (store && !buffer.writable) {
      fault(format("writes to the read-only buffer %d ('%s') at byte %lld", slot, buffer.name,
                   static_cast<long long>(offset)));
    }
    return;
  }
  if (!store && w->shared->image.holds(address)) return;
  fault(format("%s %zu bytes at an address that is in no buffer, threadgroup array or own memory",
               verb, size));
}

}  // namespace msl

using namespace msl;

extern "C" {

void* msl_buffer(int index) {
  auto& w = here();
  if (index < 0 || index >= int(w.shared->buffers.size())) {
    fault(format("takes buffer %d, which is not bound", index));
  }
  return w.shared->buffers[index].data;
}

uint32_t msl_position(int source, int axis) {
  const auto& w = here();
  const auto& lane = *w.current;
  const auto& launch = w.shared->launch;
  switch (source) {
    case kThreadPositionInGrid:
      return w.group[axis] * launch.group_size[axis] + lane.position[axis];
    case kThreadgroupPositionInGrid:
      return w.group[axis];
    case kThreadPositionInThreadgroup:
      return lane.position[axis];
    case kThreadIndexInThreadgroup:
      return lane.index;
    case kThreadIndexInSimdgroup:
      return lane.index % kLanes;
    case kSimdgroupIndexInThreadgroup:
      return lane.index / kLanes;
    case kThreadsPerThreadgroup:
      return w.size[axis];
    case kThreadsPerGrid:
      return launch.grid[axis];
    case kThreadgroupsPerGrid:
      return w.shared->groups[axis];
    case kThreadsPerSimdgroup:
      return kLanes;
    case kSimdgroupsPerThreadgroup:
      return (w.lane_count + kLanes - 1) / kLanes;
    case kThreadIndexInQuadgroup:
      return lane.index % 4;
    case kQuadgroupIndexInThreadgroup:
      return lane.index / 4;
  }
  fault(format("takes an argument of unknown source %d", source));
}

void msl_collective(MslCombine combine, void* value, size_t size, const char* what, MslSite site) {
  auto& lane = *here().current;
  if (size > kMaxOperand) fault("brings too large an operand to a simd operation");
  memcpy(lane.operand, value, size);
  lane.operand_size = size;
  lane.combine = combine;
  wait_at(Wait::collective, what, site);
  memcpy(value, lane.operand, size);
}

void msl_simdgroup_barrier(bool orders_threadgroup_memory, MslSite site) {
  auto& lane = *here().current;
  lane.combine = nullptr;
  lane.orders_memory = orders_threadgroup_memory;
  wait_at(Wait::simdgroup_barrier, "simdgroup_barrier", site);
}

void msl_threadgroup_barrier(bool orders_threadgroup_memory, MslSite site) {
  auto& lane = *here().current;
  lane.combine = nullptr;
  lane.orders_memory = orders_threadgroup_memory;
  wait_at(Wait::threadgroup_barrier, "threadgroup_barrier", site);
}

void* msl_threadgroup_array(size_t size, const char* name, MslSite site) {
  auto& w = here();
  void* address = nullptr;
  auto problem = w.memory.declare(w.current->arrays++, size, name, address);
  if (!problem.empty()) fault(problem + " (" + place(site) + ")");
  return address;
}

void msl_atomic_access(const void* pointer, size_t size) {
  auto& w = here();
  if (w.memory.holds(reinterpret_cast<uintptr_t>(pointer))) {
    auto problem = w.memory.atomic_access(reinterpret_cast<uintptr_t>(pointer), size);
    if (!problem.empty()) fault("updates " + problem);
    return;
  }
  check_access(pointer, size, true);
}

int msl_variant() { return here().shared->launch.variant; }

int msl_launch(const MslLaunch* launch, char* message, size_t message_size) {
  Shared shared{.launch = *launch};
  for (int axis = 0; axis < 3; ++axis) {
    const auto threads = launch->group_size[axis];
    shared.groups[axis] = threads ? (launch->grid[axis] + threads - 1) / threads : 0;
  }
  const auto* threads = launch->group_size;
  const auto per_group = uint64_t(threads[0]) * threads[1] * threads[2];
  auto fail = [&](const std::string& text) {
    snprintf(message, message_size, "[%s] %s", launch->kernel, text.c_str());
    return 1;
  };
  if (per_group == 0 || per_group > 1024) {
    return fail(format("a threadgroup has 1 to 1024 threads, not %llu",
                       static_cast<unsigned long long>(per_group)));
  }
  catch_signals();
  shared.image = image_range(launch->image);
  try {
    shared.buffers = bind_buffers(launch->buffers, launch->buffer_count);
  } catch (const std::runtime_error& error) {
    return fail(error.what());
  }
  std::vector<std::thread> team;
  for (uint32_t i = 1; i < launch->threads; ++i) {
    team.emplace_back([&] {
      catch_signals();
      take_threadgroups(shared);
    });
  }
  take_threadgroups(shared);
  for (auto& thread : team) thread.join();
  worker = nullptr;
  copy_back(launch->buffers, shared.buffers);
  if (!shared.failed) return 0;
  snprintf(message, message_size, "%s", shared.message.c_str());
  return 1;
}

}  // extern "C"
