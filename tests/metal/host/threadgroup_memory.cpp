#include "threadgroup_memory.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstring>
#include <new>

namespace msl {

namespace {

constexpr size_t kLimit = 32 * 1024;  // of every Apple GPU
constexpr size_t kGap = 256;          // between arrays
constexpr uint32_t kLanes = 32;

std::string place(const char* name, size_t offset) {
  return "threadgroup array '" + std::string(name) + "', byte " + std::to_string(offset);
}

}  // namespace

ThreadgroupMemory::ThreadgroupMemory() {
  void* memory = mmap(nullptr, kReserved, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) throw std::bad_alloc();
  base_ = reinterpret_cast<uintptr_t>(memory);
}

ThreadgroupMemory::~ThreadgroupMemory() { munmap(reinterpret_cast<void*>(base_), kReserved); }

void ThreadgroupMemory::reset() {
  arrays_.clear();
  used_ = 0;
  barriers_ = 0;
  memset(simdgroup_barriers_, 0, sizeof(simdgroup_barriers_));
}

std::string ThreadgroupMemory::declare(size_t ordinal, size_t size, const char* name,
                                       void*& address) {
  if (ordinal < arrays_.size()) {
    const auto& array = arrays_[ordinal];
    if (array.size != size || strcmp(array.name, name)) {
      return "declares threadgroup array '" + std::string(name) +
             "' where another thread declares '" + array.name + "'";
    }
    address = reinterpret_cast<void*>(base_ + array.begin);
    return {};
  }
  size_t total = size;
  for (const auto& array : arrays_) total += array.size;
  if (total > kLimit) {
    return "declares " + std::to_string(total) +
           " bytes of threadgroup memory, of which there are " + std::to_string(kLimit);
  }
  const auto begin = used_ + kGap;
  used_ = (begin + size + kGap) / kGap * kGap;
  if (bytes_.size() < used_) bytes_.resize(used_);
  std::fill(bytes_.begin() + begin, bytes_.begin() + begin + size, Byte{});
  // What a float never written reads as, where accesses are not checked: a NaN.
  memset(reinterpret_cast<void*>(base_ + begin), 0xff, size);
  arrays_.push_back({name, begin, size});
  address = reinterpret_cast<void*>(base_ + begin);
  return {};
}

const ThreadgroupMemory::Array* ThreadgroupMemory::find(uintptr_t address, size_t size) const {
  const auto offset = address - base_;
  for (const auto& array : arrays_) {
    if (offset >= array.begin && offset + size <= array.begin + array.size) return &array;
  }
  return nullptr;
}

std::string ThreadgroupMemory::outside(uintptr_t address, size_t size) const {
  const auto offset = static_cast<int64_t>(address - base_);
  const Array* nearest = nullptr;
  int64_t least = INT64_MAX;
  for (const auto& array : arrays_) {
    const auto begin = static_cast<int64_t>(array.begin);
    const auto end = begin + static_cast<int64_t>(array.size);
    const auto distance = offset < begin ? begin - offset : std::max<int64_t>(0, offset - end);
    if (distance < least) {
      least = distance;
      nearest = &array;
    }
  }
  if (!nearest) return "threadgroup memory where no array is";
  return "out of bounds: " + std::to_string(size) + " bytes at byte " +
         std::to_string(offset - static_cast<int64_t>(nearest->begin)) + " of threadgroup array '" +
         nearest->name + "' (" + std::to_string(nearest->size) + " bytes)";
}

bool ThreadgroupMemory::ordered(const Access& before, uint32_t lane) const {
  if (before.barriers != barriers_ + 1) return true;
  const auto simdgroup = lane / kLanes;
  return before.lane / kLanes == simdgroup &&
         before.simdgroup_barriers != simdgroup_barriers_[simdgroup];
}

ThreadgroupMemory::Access ThreadgroupMemory::now(uint32_t lane) const {
  return {barriers_ + 1, simdgroup_barriers_[lane / kLanes], static_cast<uint16_t>(lane), 0, 0};
}

std::string ThreadgroupMemory::note_read(Byte& byte, uint32_t lane) {
  if (!byte.written) return "never written";
  if (byte.write.lane != lane && !ordered(byte.write, lane)) {
    return "a race with the write by thread " + std::to_string(byte.write.lane);
  }
  auto& read = byte.read;
  if (read.barriers != barriers_ + 1) {
    read = now(lane);
  } else if (read.lane / kLanes != lane / kLanes) {
    read.other_simdgroups = 1;
  } else if (read.simdgroup_barriers != simdgroup_barriers_[lane / kLanes]) {
    const auto others = read.other_simdgroups;
    read = now(lane);
    read.other_simdgroups = others;
  } else if (read.lane != lane) {
    read.others_in_simdgroup = 1;
  }
  return {};
}

std::string ThreadgroupMemory::note_write(Byte& byte, uint32_t lane) {
  if (byte.write.lane != lane && !ordered(byte.write, lane)) {
    return "a race with the write by thread " + std::to_string(byte.write.lane);
  }
  const auto& read = byte.read;
  const bool now_read = read.barriers == barriers_ + 1;
  if (now_read && (read.other_simdgroups ||
                   (!ordered(read, lane) && (read.lane != lane || read.others_in_simdgroup)))) {
    return "a race with a read by thread " + std::to_string(read.lane);
  }
  byte.write = now(lane);
  byte.written = true;
  return {};
}

std::string ThreadgroupMemory::access(uintptr_t address, size_t size, bool store, uint32_t lane) {
  const auto* array = find(address, size);
  if (!array) return outside(address, size);
  const auto offset = address - base_;
  for (size_t i = 0; i < size; ++i) {
    auto& byte = bytes_[offset + i];
    auto problem = store ? note_write(byte, lane) : note_read(byte, lane);
    if (!problem.empty()) return place(array->name, offset + i - array->begin) + ": " + problem;
  }
  return {};
}

std::string ThreadgroupMemory::atomic_access(uintptr_t address, size_t size) {
  if (!find(address, size)) return outside(address, size);
  for (size_t i = 0; i < size; ++i) bytes_[address - base_ + i].written = true;
  return {};
}

}  // namespace msl
