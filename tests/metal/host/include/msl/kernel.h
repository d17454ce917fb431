#pragma once

#include <utility>

#include "simdgroup.h"

/// How a launch calls a kernel, and how it declares threadgroup memory.
namespace msl {

template <typename T>
struct is_vec : std::false_type {};
template <typename T, int N>
struct is_vec<metal::vec<T, N>> : std::true_type {
  using element = T;
  static constexpr int size = N;
};

template <typename P>
inline P argument(int source) {
  using Value = std::remove_cv_t<std::remove_reference_t<P>>;
  if constexpr (std::is_pointer_v<P>) {
    return reinterpret_cast<P>(msl_buffer(source));
  } else if constexpr (std::is_reference_v<P>) {
    return *reinterpret_cast<std::remove_reference_t<P>*>(msl_buffer(source));
  } else if constexpr (is_vec<Value>::value) {
    Value value;
    for (int i = 0; i < is_vec<Value>::size; ++i) {
      value[i] = static_cast<typename is_vec<Value>::element>(msl_position(source, i));
    }
    return value;
  } else {
    return static_cast<Value>(msl_position(source, 0));
  }
}

template <typename... P, size_t... I>
inline void call(void (*kernel)(P...), const int* sources, std::index_sequence<I...>) {
  kernel(argument<P>(sources[I])...);
}

/// Calls a kernel for the lane at work. `sources`: where each argument comes from.
template <typename... P>
inline void call(void (*kernel)(P...), const int (&sources)[sizeof...(P)]) {
  call(kernel, sources, std::make_index_sequence<sizeof...(P)>{});
}

/// One array that all threads of the threadgroup share.
template <typename T>
inline T& threadgroup_array(const char* name, MslSite at = site()) {
  return *reinterpret_cast<T*>(msl_threadgroup_array(sizeof(T), name, at));
}

}  // namespace msl
