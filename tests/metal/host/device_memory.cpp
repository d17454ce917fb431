#include "device_memory.h"

#include <dlfcn.h>
#include <link.h>
#include <sys/mman.h>

#include <algorithm>
#include <cstring>
#include <new>
#include <stdexcept>

namespace msl {

namespace {

constexpr uint64_t kSlot = uint64_t(1) << 30;
constexpr int kSlots = 48;
// A buffer begins in the middle of its slot, so that negative indices stay in it too.
constexpr uint64_t kBegin = kSlot / 2;
constexpr uint64_t kPage = 4096;

struct Arena {
  uintptr_t base;
  uint64_t mapped[kSlots] = {};

  Arena() {
    void* memory = mmap(nullptr, kSlot * kSlots, PROT_NONE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) throw std::bad_alloc();
    base = reinterpret_cast<uintptr_t>(memory);
  }

  /// Makes a slot's first bytes usable and all beyond them inaccessible.
  char* resize(int slot, uint64_t size) {
    auto* begin = reinterpret_cast<char*>(base + slot * kSlot + kBegin);
    const auto pages = (size + kPage - 1) / kPage * kPage;
    if (pages > mapped[slot]) {
      mprotect(begin, pages, PROT_READ | PROT_WRITE);
    } else if (pages < mapped[slot]) {
      mprotect(begin + pages, mapped[slot] - pages, PROT_NONE);
    }
    mapped[slot] = pages;
    return begin;
  }
};

Arena& arena() {
  static auto* arena = new Arena;
  return *arena;
}

}  // namespace

ImageRange image_range(const void* address_within) {
  struct Search {
    uintptr_t address;
    ImageRange range;
  } search{reinterpret_cast<uintptr_t>(address_within), {}};
  dl_iterate_phdr(
      [](dl_phdr_info* info, size_t, void* data) {
        auto& search = *static_cast<Search*>(data);
        ImageRange range{UINTPTR_MAX, 0};
        for (int i = 0; i < info->dlpi_phnum; ++i) {
          const auto& part = info->dlpi_phdr[i];
          if (part.p_type != PT_LOAD) continue;
          range.low = std::min<uintptr_t>(range.low, info->dlpi_addr + part.p_vaddr);
          range.high =
              std::max<uintptr_t>(range.high, info->dlpi_addr + part.p_vaddr + part.p_memsz);
        }
        if (!range.holds(search.address)) return 0;
        search.range = range;
        return 1;
      },
      &search);
  return search.range;
}

std::vector<BufferView> bind_buffers(const MslBuffer* buffers, uint32_t count) {
  if (count > kSlots) throw std::runtime_error("binds too many buffers");
  std::vector<BufferView> views;
  for (uint32_t i = 0; i < count; ++i) {
    const auto& buffer = buffers[i];
    if (buffer.size > kSlot / 4) throw std::runtime_error("binds too large a buffer");
    char* data = arena().resize(i, buffer.size + buffer.offset) + buffer.offset;
    if (buffer.size > 0) memcpy(data, buffer.data, buffer.size);
    views.push_back({data, buffer.size, buffer.writable != 0, buffer.name});
  }
  return views;
}

void copy_back(const MslBuffer* buffers, const std::vector<BufferView>& views) {
  for (size_t i = 0; i < views.size(); ++i) {
    if (views[i].writable && views[i].size > 0) {
      memcpy(buffers[i].data, views[i].data, views[i].size);
    }
  }
}

int device_slot(uintptr_t address) {
  const auto distance = address - arena().base;
  return distance < kSlot * kSlots ? static_cast<int>(distance / kSlot) : -1;
}

}  // namespace msl
