#pragma once

#include <cstddef>
#include <memory>
#include <new>
#include <type_traits>

/// Memory for vectors.
namespace zmlx::cpu {

/// Of every instruction set's longest vector, and of a cache line or a pair of them.
inline constexpr std::align_val_t kAlignment{128};

struct AlignedDelete {
  void operator()(void* memory) const noexcept { ::operator delete(memory, kAlignment); }
};

template <typename T>
using AlignedArray = std::unique_ptr<T[], AlignedDelete>;

/// `count` elements, uninitialised.
/// @throws std::bad_alloc
template <typename T>
AlignedArray<T> allocate_aligned(size_t count) {
  static_assert(std::is_trivially_default_constructible_v<T> &&
                std::is_trivially_destructible_v<T>);
  return AlignedArray<T>(static_cast<T*>(::operator new(count * sizeof(T), kAlignment)));
}

}  // namespace zmlx::cpu
