#pragma once

#include <array>
#include <cstdint>
#include <cstring>

#include "mlx/dtype.h"

/// Kernels that are made once for a kind of call are looked up by a key of numbers.
namespace zmlx::fast {

namespace mx = mlx::core;

/// What tells calls apart that need a different kernel or launch.
using LaunchKey = std::array<int64_t, 48>;

struct LaunchKeyHash {
  size_t operator()(const LaunchKey& key) const {
    // Four chains, because one alone is as slow as its multiplications are one after the other.
    std::array<uint64_t, 4> chains{1, 2, 3, 4};
    static_assert(std::tuple_size_v<LaunchKey> % chains.size() == 0);
    for (size_t i = 0; i < key.size(); ++i) {
      auto& chain = chains[i % chains.size()];
      chain = mixed(chain, static_cast<uint64_t>(key[i]));
    }
    uint64_t hash = 0;
    for (auto chain : chains) hash = mixed(hash, chain);
    return hash;
  }

 private:
  static uint64_t mixed(uint64_t hash, uint64_t value) {
    hash = (hash ^ value) * 0xff51afd7ed558ccd;
    return hash ^ hash >> 32;
  }
};

/// What a key begins with.
enum class Operation { swiglu, combine, norm, route, heads, short_conv, norm_route, experts };

inline int64_t type_code(mx::Dtype type) { return static_cast<int64_t>(type.val()); }

/// Collects what a key is made of.
class KeyBuilder {
 public:
  template <typename... Values>
  void add(Values... values) {
    ((key_.at(position_++) = static_cast<int64_t>(values)), ...);
  }
  void add(float value) {
    uint32_t bits;
    std::memcpy(&bits, &value, sizeof(bits));
    add(bits);
  }
  const LaunchKey& key() const { return key_; }

 private:
  LaunchKey key_{};
  size_t position_ = 0;
};

}  // namespace zmlx::fast
