#pragma once

#include "simdgroup.h"

/// Relaxed atomics. They race with nothing; their bounds are checked.
namespace metal {

enum memory_order { memory_order_relaxed };

template <typename T>
struct atomic {
  T value;
};
using atomic_int = atomic<int>;
using atomic_uint = atomic<uint>;
using atomic_float = atomic<float>;

template <typename T>
MSL_HOST T atomic_load_explicit(const atomic<T>* object, memory_order) {
  msl_atomic_access(object, sizeof(T));
  T value;
  __atomic_load(&object->value, &value, __ATOMIC_RELAXED);
  return value;
}
template <typename T>
MSL_HOST void atomic_store_explicit(atomic<T>* object, T value, memory_order) {
  msl_atomic_access(object, sizeof(T));
  __atomic_store(&object->value, &value, __ATOMIC_RELAXED);
}
template <typename T>
MSL_HOST bool atomic_compare_exchange_weak_explicit(atomic<T>* object, T* expected, T desired,
                                                    memory_order, memory_order) {
  msl_atomic_access(object, sizeof(T));
  return __atomic_compare_exchange(&object->value, expected, &desired, false, __ATOMIC_RELAXED,
                                   __ATOMIC_RELAXED);
}
#define MSL_FETCH(name, expression)                                                           \
  template <typename T>                                                                       \
  MSL_HOST T atomic_fetch_##name##_explicit(atomic<T>* object, T operand, memory_order) {     \
    msl_atomic_access(object, sizeof(T));                                                     \
    T old, next;                                                                              \
    __atomic_load(&object->value, &old, __ATOMIC_RELAXED);                                    \
    do {                                                                                      \
      next = expression;                                                                      \
    } while (!__atomic_compare_exchange(&object->value, &old, &next, false, __ATOMIC_RELAXED, \
                                        __ATOMIC_RELAXED));                                   \
    return old;                                                                               \
  }
MSL_FETCH(add, old + operand)
MSL_FETCH(sub, old - operand)
MSL_FETCH(max, metal::max(old, operand))
MSL_FETCH(min, metal::min(old, operand))
MSL_FETCH(and, old& operand)
MSL_FETCH(or, old | operand)
MSL_FETCH(xor, old ^ operand)
#undef MSL_FETCH

}  // namespace metal
