#pragma once

#include <cstdint>
#include <cstdio>
#include <cstring>
#include <string>

namespace zmlx::fast {

/// A float as the integer of its bits, for constants that have no literal.
inline int bits_of(float value) {
  int bits;
  std::memcpy(&bits, &value, sizeof(bits));
  return bits;
}

/// The constants of a kernel, as text: what the kernels' sources call C.
class Config {
 public:
  /// @param qualifiers  what the language wants before a constant's type.
  explicit Config(const char* qualifiers = "static constexpr ") : qualifiers_(qualifiers) {}

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
    text_ += qualifiers_ + std::string(type) + " " + name + " = " + value + ";\n";
  }
  std::string qualifiers_, text_;
};

}  // namespace zmlx::fast
