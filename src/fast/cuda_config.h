#pragma once

#include <cstdint>
#include <cstdio>
#include <cstring>
#include <stdexcept>
#include <string>

#include "fast/cuda_kernel.h"

/// How arrays' types and numbers become a CUDA kernel's key and its constants.
namespace zmlx::fast {

/// What a key begins with.
enum class Operation { swiglu, combine, norm, route, heads, short_conv, norm_route };

inline const char* type_name(mx::Dtype type) {
  if (type == mx::float32) return "float";
  return type == mx::float16 ? "f16" : "bf16";
}

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
  const CudaKey& key() const { return key_; }

 private:
  CudaKey key_{};
  size_t position_ = 0;
};

/// The constants of a kernel, as C++ text: what src/cuda/experts.cuh calls C.
class Config {
 public:
  void type(const char* name, const std::string& value) {
    text_ += "using " + std::string(name) + " = " + value + ";\n";
  }
  void number(const char* name, int64_t value) { constant("int", name, std::to_string(value)); }
  void flag(const char* name, bool value) { constant("bool", name, value ? "true" : "false"); }
  void real(const char* name, float value) { constant("float", name, exactly(value)); }
  std::string text(const std::string& name = "Config") const {
    return "namespace zmlx {\nstruct " + name + " {\n" + text_ + "};\n}\n";
  }

  /// A literal of just this value.
  static std::string exactly(float value) {
    char buffer[64];
    std::snprintf(buffer, sizeof(buffer), "%a", static_cast<double>(value));
    return buffer;
  }

 private:
  void constant(const char* type, const char* name, const std::string& value) {
    text_ += "static constexpr " + std::string(type) + " " + name + " = " + value + ";\n";
  }
  std::string text_;
};

/// `T` as the kernel's body names it.
inline std::string qualified(const char* type) {
  return std::strcmp(type, "float") == 0 ? type : std::string("zmlx::") + type;
}

[[noreturn]] inline void refuse(const char* op, const std::string& obstacle) {
  throw std::runtime_error("[" + std::string(op) +
                           "] has no CUDA kernel for this call: " + obstacle + ".");
}

}  // namespace zmlx::fast
