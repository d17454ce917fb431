#pragma once

#include <optional>
#include <string_view>
#include <vector>

#include "kernel/expression.h"

namespace zmlx::kernel {

/// A function of the language.
struct Function {
  std::string_view name;
  int arguments;
  /// What the arguments are converted to: a type that all have in common.
  enum class Takes : uint8_t { floats, numbers, any } takes;
  /// The call, of arguments converted. `any` functions convert themselves, and return -1 if they
  /// cannot.
  NodeId (*build)(Tree& tree, const NodeId* args);
};

/// The function of a name without prefixes; null if there is none.
const Function* find_function(std::string_view name);
const std::vector<Function>& all_functions();

/// The name without `metal::`, `precise::`, `fast::`, `std::` and `kk_`.
std::string_view without_prefix(std::string_view name);

/// A constant such as INFINITY or M_PI_F.
struct NamedConstant {
  std::string_view name;
  double value;
  Type type;
};
const NamedConstant* find_constant(std::string_view name);

/// The type that a name stands for; `T` is the compute type.
std::optional<Type> find_type(std::string_view name, Type compute_type);

}  // namespace zmlx::kernel
