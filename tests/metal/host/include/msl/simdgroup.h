#pragma once

#include "../../runtime.h"
#include "math.h"

/// Operations of a simdgroup, at which its lanes meet, and barriers. Lanes that exist take part; to
/// leave one out is a fault, where Metal would leave its part undefined.

namespace msl {

constexpr MslSite site(const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
  return {file, line};
}

#define MSL_HOST __attribute__((noinline, no_sanitize("kernel-address")))
// An operation stays where it is in the control flow, as on a GPU.
#define MSL_MEETING __attribute__((convergent))

template <typename T, typename Operation>
MSL_HOST void combine_reduction(void* slots, size_t, unsigned lanes) {
  T* values = static_cast<T*>(slots);
  T result[32];
  if (msl_variant() == 0) {
    for (unsigned step = 16; step > 0; step /= 2) {
      for (unsigned i = 0; i < lanes; ++i) {
        const auto other = i ^ step;
        result[i] = other < lanes ? Operation::apply(values[i], values[other]) : values[i];
      }
      for (unsigned i = 0; i < lanes; ++i) values[i] = result[i];
    }
  } else {
    T sum = values[0];
    for (unsigned i = 1; i < lanes; ++i) sum = Operation::apply(sum, values[i]);
    for (unsigned i = 0; i < lanes; ++i) values[i] = sum;
  }
}

template <typename T, typename Operation, bool inclusive>
MSL_HOST void combine_prefix(void* slots, size_t, unsigned lanes) {
  T* values = static_cast<T*>(slots);
  T sum = Operation::template identity<T>();
  for (unsigned i = 0; i < lanes; ++i) {
    const T before = sum;
    sum = Operation::apply(sum, values[i]);
    values[i] = inclusive ? sum : before;
  }
}

template <typename T>
struct Shuffled {
  T value, filling;
  uint lane;  // to read from; 32 and above: the filling
};

template <typename T>
MSL_HOST void combine_shuffle(void* slots, size_t, unsigned lanes) {
  auto* values = static_cast<Shuffled<T>*>(slots);
  T result[32];
  for (unsigned i = 0; i < lanes; ++i) {
    const auto from = values[i].lane;
    result[i] = from < lanes ? values[from].value : values[i].filling;
  }
  for (unsigned i = 0; i < lanes; ++i) values[i].value = result[i];
}

inline MSL_HOST void combine_ballot(void* slots, size_t, unsigned lanes) {
  auto* votes = static_cast<uint*>(slots);
  uint ballot = 0;
  for (unsigned i = 0; i < lanes; ++i) ballot |= (votes[i] ? 1u : 0u) << i;
  for (unsigned i = 0; i < lanes; ++i) votes[i] = ballot;
}

struct Sum {
  template <typename T>
  static constexpr T identity() {
    return T(0);
  }
  template <typename T>
  static T apply(T a, T b) {
    return a + b;
  }
};
struct Product {
  template <typename T>
  static constexpr T identity() {
    return T(1);
  }
  template <typename T>
  static T apply(T a, T b) {
    return a * b;
  }
};
struct Max {
  template <typename T>
  static T apply(T a, T b) {
    return metal::max(a, b);
  }
};
struct Min {
  template <typename T>
  static T apply(T a, T b) {
    return metal::min(a, b);
  }
};
struct And {
  template <typename T>
  static T apply(T a, T b) {
    return a & b;
  }
};
struct Or {
  template <typename T>
  static T apply(T a, T b) {
    return a | b;
  }
};
struct Xor {
  template <typename T>
  static T apply(T a, T b) {
    if constexpr (std::is_integral_v<T>) return a ^ b;
    __builtin_trap();  // MLX's bf16_math.h spells it for floats; no kernel calls it
  }
};

template <typename T>
MSL_MEETING inline T meet(MslCombine combine, T value, const char* what, MslSite site) {
  msl_collective(combine, &value, sizeof(value), what, site);
  return value;
}
template <typename T>
MSL_MEETING inline T shuffle(T value, T filling, uint lane, const char* what, MslSite site) {
  Shuffled<T> operand{value, filling, lane};
  msl_collective(combine_shuffle<T>, &operand, sizeof(operand), what, site);
  return operand.value;
}
inline uint own_lane() { return msl_position(kThreadIndexInSimdgroup, 0); }

}  // namespace msl

#define MSL_REDUCE(name, operation)                                            \
  template <typename T>                                                        \
  MSL_MEETING inline T __metal_##name(T x, MslSite at = msl::site()) {         \
    return msl::meet(msl::combine_reduction<T, msl::operation>, x, #name, at); \
  }                                                                            \
  namespace metal {                                                            \
  template <typename T>                                                        \
  MSL_MEETING inline T name(T x, MslSite at = msl::site()) {                   \
    return msl::meet(msl::combine_reduction<T, msl::operation>, x, #name, at); \
  }                                                                            \
  }
MSL_REDUCE(simd_sum, Sum)
MSL_REDUCE(simd_product, Product)
MSL_REDUCE(simd_max, Max)
MSL_REDUCE(simd_min, Min)
MSL_REDUCE(simd_and, And)
MSL_REDUCE(simd_or, Or)
MSL_REDUCE(simd_xor, Xor)
#undef MSL_REDUCE

#define MSL_PREFIX(name, operation, inclusive)                                         \
  template <typename T>                                                                \
  MSL_MEETING inline T __metal_##name(T x, MslSite at = msl::site()) {                 \
    return msl::meet(msl::combine_prefix<T, msl::operation, inclusive>, x, #name, at); \
  }                                                                                    \
  namespace metal {                                                                    \
  template <typename T>                                                                \
  MSL_MEETING inline T name(T x, MslSite at = msl::site()) {                           \
    return msl::meet(msl::combine_prefix<T, msl::operation, inclusive>, x, #name, at); \
  }                                                                                    \
  }
MSL_PREFIX(simd_prefix_exclusive_sum, Sum, false)
MSL_PREFIX(simd_prefix_inclusive_sum, Sum, true)
MSL_PREFIX(simd_prefix_exclusive_product, Product, false)
MSL_PREFIX(simd_prefix_inclusive_product, Product, true)
#undef MSL_PREFIX

// (name, lane to read from); beyond the simdgroup a lane keeps its own value.
#define MSL_SHUFFLE(name, from)                                                  \
  template <typename T>                                                          \
  MSL_MEETING inline T __metal_##name(T x, ushort n, MslSite at = msl::site()) { \
    const uint own = msl::own_lane();                                            \
    return msl::shuffle(x, x, from, #name, at);                                  \
  }                                                                              \
  namespace metal {                                                              \
  template <typename T>                                                          \
  MSL_MEETING inline T name(T x, ushort n, MslSite at = msl::site()) {           \
    return ::__metal_##name(x, n, at);                                           \
  }                                                                              \
  }
MSL_SHUFFLE(simd_broadcast, ((void)own, n))
MSL_SHUFFLE(simd_shuffle, ((void)own, n))
MSL_SHUFFLE(simd_shuffle_down, own + n)
MSL_SHUFFLE(simd_shuffle_up, own - n)
MSL_SHUFFLE(simd_shuffle_xor, own ^ n)
MSL_SHUFFLE(simd_shuffle_rotate_down, (own + n) % 32)
MSL_SHUFFLE(simd_shuffle_rotate_up, (own + 32 - n) % 32)
#undef MSL_SHUFFLE

inline ushort __metal_get_simdgroup_size(ushort) { return 32; }
template <typename T>
MSL_MEETING inline T __metal_simd_shuffle_and_fill_up(T x, T filling, ushort n, ushort modulo = 32,
                                                      MslSite at = msl::site()) {
  // The lanes that have nothing above them take the filling data's last ones.
  const uint own = msl::own_lane();
  const uint within = own % modulo;
  const T fill = msl::shuffle(filling, filling, own - within + (within + modulo - n) % modulo,
                              "simd_shuffle_and_fill_up", at);
  const T other = msl::shuffle(x, x, own - n, "simd_shuffle_and_fill_up", at);
  return within < n ? fill : other;
}
template <typename T>
MSL_MEETING inline T __metal_simd_shuffle_and_fill_down(T x, T filling, ushort n,
                                                        ushort modulo = 32,
                                                        MslSite at = msl::site()) {
  const uint own = msl::own_lane();
  const uint within = own % modulo;
  const T fill = msl::shuffle(filling, filling, own - within + (within + n) % modulo,
                              "simd_shuffle_and_fill_down", at);
  const T other = msl::shuffle(x, x, own + n, "simd_shuffle_and_fill_down", at);
  return within + n >= modulo ? fill : other;
}

namespace metal {

enum class mem_flags : uint {
  mem_none = 0,
  mem_device = 1,
  mem_threadgroup = 2,
  mem_texture = 4,
  mem_threadgroup_imageblock = 8,
};
constexpr mem_flags operator|(mem_flags a, mem_flags b) { return mem_flags(uint(a) | uint(b)); }

MSL_MEETING inline void threadgroup_barrier(mem_flags flags, MslSite at = msl::site()) {
  msl_threadgroup_barrier(uint(flags) & uint(mem_flags::mem_threadgroup), at);
}
MSL_MEETING inline void simdgroup_barrier(mem_flags flags, MslSite at = msl::site()) {
  msl_simdgroup_barrier(uint(flags) & uint(mem_flags::mem_threadgroup), at);
}

template <typename T>
MSL_MEETING inline T simd_shuffle_and_fill_up(T x, T filling, ushort n, MslSite at = msl::site()) {
  return ::__metal_simd_shuffle_and_fill_up(x, filling, n, 32, at);
}
template <typename T>
MSL_MEETING inline T simd_shuffle_and_fill_down(T x, T filling, ushort n,
                                                MslSite at = msl::site()) {
  return ::__metal_simd_shuffle_and_fill_down(x, filling, n, 32, at);
}
template <typename T>
MSL_MEETING inline T simd_broadcast_first(T x, MslSite at = msl::site()) {
  return msl::shuffle(x, x, 0, "simd_broadcast_first", at);
}
template <typename T>
MSL_MEETING inline T quad_sum(T x, MslSite at = msl::site()) {
  x = x + msl::shuffle(x, x, msl::own_lane() ^ 2, "quad_sum", at);
  return x + msl::shuffle(x, x, msl::own_lane() ^ 1, "quad_sum", at);
}
template <typename T>
MSL_MEETING inline T quad_broadcast(T x, ushort lane, MslSite at = msl::site()) {
  return msl::shuffle(x, x, msl::own_lane() / 4 * 4 + lane, "quad_broadcast", at);
}

/// The lanes for which a predicate holds.
struct simd_vote {
  using vote_t = ulong;
  ulong votes;
  constexpr explicit simd_vote(ulong v = 0) : votes(v) {}
  constexpr explicit operator vote_t() const { return votes; }
  constexpr bool all() const { return votes == 0xffffffff; }
  constexpr bool any() const { return votes != 0; }
};
MSL_MEETING inline simd_vote simd_ballot(bool vote, MslSite at = msl::site()) {
  return simd_vote(msl::meet<uint>(msl::combine_ballot, vote, "simd_ballot", at));
}
MSL_MEETING inline bool simd_any(bool vote, MslSite at = msl::site()) {
  return msl::meet<uint>(msl::combine_ballot, vote, "simd_any", at) != 0;
}
MSL_MEETING inline bool simd_all(bool vote, MslSite at = msl::site()) {
  return msl::meet<uint>(msl::combine_ballot, !vote, "simd_all", at) == 0;
}
MSL_MEETING inline simd_vote simd_active_threads_mask(MslSite at = msl::site()) {
  return simd_vote(msl::meet<uint>(msl::combine_ballot, true, "simd_active_threads_mask", at));
}
inline bool simd_is_first() { return msl::own_lane() == 0; }

}  // namespace metal
