#pragma once

#include <cstdint>
#include <vector>

#include "runtime.h"

/// Device buffers, each alone in a gigabyte of addresses: an index that runs out of one never lands
/// in another unseen.
namespace msl {

struct BufferView {
  void* data;
  uint64_t size;
  bool writable;
  const char* name;
};

/// The addresses of a loaded library.
struct ImageRange {
  uintptr_t low = 0, high = 0;
  bool holds(uintptr_t address) const { return address >= low && address < high; }
};

ImageRange image_range(const void* address_within);

/// Copies a launch's buffers to where kernels see them.
/// @throws std::runtime_error if there are too many or too large ones.
std::vector<BufferView> bind_buffers(const MslBuffer* buffers, uint32_t count);
void copy_back(const MslBuffer* buffers, const std::vector<BufferView>& views);

/// Which buffer an address belongs to, -1 if it is no device address.
int device_slot(uintptr_t address);

}  // namespace msl
