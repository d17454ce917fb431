#include "cpu/huge_pages.h"

#include <cstdint>

#ifdef __linux__
#include <sys/mman.h>
// Linux 6.1; Debian 12's headers have it, older ones do not.
#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif
#endif

namespace zmlx::cpu {

size_t use_huge_pages(const void* data, size_t bytes) {
#ifdef __linux__
  constexpr uintptr_t kPage = uintptr_t{2} << 20;
  const auto address = reinterpret_cast<uintptr_t>(data);
  const uintptr_t begin = (address + kPage - 1) / kPage * kPage;
  const uintptr_t end = (address + bytes) / kPage * kPage;
  if (end <= begin) return 0;
  // One call for all of them: each waits for every processor to give back what it holds of pages.
  const int failed = madvise(reinterpret_cast<void*>(begin), end - begin, MADV_COLLAPSE);
  return failed ? 0 : end - begin;
#else
  (void)data;
  return bytes * 0;
#endif
}

}  // namespace zmlx::cpu
