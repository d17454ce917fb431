#pragma once

#include <metal_stdlib>

// In place of MLX's file, which tells pointers to different address spaces apart.
namespace metal {

template <typename T>
constexpr bool is_empty_v = is_empty<T>::value;
template <class T>
struct is_static : bool_constant<is_empty<remove_cv_t<T>>::value> {};
template <typename T>
using pointer_element_t = remove_cv_t<std::remove_pointer_t<remove_cv_t<T>>>;

}  // namespace metal
