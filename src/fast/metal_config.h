#pragma once

#include <stdexcept>
#include <string>

#include "fast/kernel_config.h"
#include "mlx/dtype.h"

/// How arrays' types and numbers become a Metal kernel's.
namespace zmlx::fast {

namespace mx = mlx::core;

/// Where Metal keeps a program's constants.
inline constexpr const char* kMetalConstant = "static constant constexpr const ";

inline const char* metal_type(mx::Dtype type) {
  if (type == mx::float32) return "float";
  return type == mx::float16 ? "float16_t" : "bfloat16_t";
}

[[noreturn]] inline void refuse_metal(const char* op, const std::string& obstacle) {
  throw std::runtime_error("[" + std::string(op) +
                           "] has no Metal kernel for this call: " + obstacle + ".");
}

}  // namespace zmlx::fast
