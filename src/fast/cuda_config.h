#pragma once

#include <cstring>
#include <stdexcept>
#include <string>

#include "fast/cuda_kernel.h"
#include "fast/expert_arrays.h"
#include "fast/kernel_config.h"

/// How arrays' types become a CUDA kernel's.
namespace zmlx::fast {

inline const char* type_name(mx::Dtype type) {
  if (type == mx::float32) return "float";
  return type == mx::float16 ? "f16" : "bf16";
}

/// `T` as the kernel's body names it.
inline std::string qualified(const char* type) {
  return std::strcmp(type, "float") == 0 ? type : std::string("zmlx::") + type;
}

/// What kernels call Experts, of one projection.
inline std::string experts_text(const ExpertArrays& arrays, const std::string& prefix,
                                const char* type, bool copied) {
  return "zmlx::Experts<" + std::string(arrays.biases ? type : "zmlx::u8") + ", " + type + ">" +
         arrays.fields(prefix, "ll", copied);
}

[[noreturn]] inline void refuse(const char* op, const std::string& obstacle) {
  throw std::runtime_error("[" + std::string(op) +
                           "] has no CUDA kernel for this call: " + obstacle + ".");
}

}  // namespace zmlx::fast
