#pragma once

#include <cstdint>
#include <string>
#include <vector>

/// Threadgroup memory, with a record of each byte's last accesses: reads of bytes never written and
/// races show whatever order lanes happen to run in.
///
/// Two accesses of a byte by different lanes, at least one of them a write, race unless a
/// threadgroup barrier (or, within one simdgroup, a simdgroup barrier) that orders threadgroup
/// memory lies between them.
namespace msl {

class ThreadgroupMemory {
 public:
  ThreadgroupMemory();
  ~ThreadgroupMemory();
  ThreadgroupMemory(const ThreadgroupMemory&) = delete;
  ThreadgroupMemory& operator=(const ThreadgroupMemory&) = delete;

  /// For a new threadgroup: no arrays, nothing written.
  void reset();
  void pass_threadgroup_barrier() { ++barriers_; }
  void pass_simdgroup_barrier(uint32_t simdgroup) { ++simdgroup_barriers_[simdgroup]; }

  /// Each lane declares the arrays in the same order and gets the same memory.
  /// @return what is wrong, empty if nothing is.
  std::string declare(size_t ordinal, size_t size, const char* name, void*& address);

  bool holds(uintptr_t address) const { return address - base_ < kReserved; }
  std::string access(uintptr_t address, size_t size, bool store, uint32_t lane);
  std::string atomic_access(uintptr_t address, size_t size);

 private:
  static constexpr size_t kReserved = 1 << 20;

  struct Access {
    uint32_t barriers;  // passed by the threadgroup, plus 1; 0 if there was no access
    uint32_t simdgroup_barriers;
    uint16_t lane;
    uint8_t others_in_simdgroup, other_simdgroups;  // for reads: more lanes than the one noted
  };
  struct Byte {
    bool written;
    Access write, read;
  };
  struct Array {
    const char* name;
    size_t begin, size;
  };

  const Array* find(uintptr_t address, size_t size) const;
  std::string outside(uintptr_t address, size_t size) const;
  std::string note_read(Byte& byte, uint32_t lane);
  std::string note_write(Byte& byte, uint32_t lane);
  bool ordered(const Access& before, uint32_t lane) const;
  Access now(uint32_t lane) const;

  uintptr_t base_;
  std::vector<Array> arrays_;
  std::vector<Byte> bytes_;
  size_t used_ = 0;
  uint32_t barriers_ = 0;
  uint32_t simdgroup_barriers_[32] = {};
};

}  // namespace msl
