#pragma once

#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "kernel/expression.h"
#include "kernel/syntax_error.h"

namespace zmlx::kernel {

/// What names mean in an expression.
struct Scope {
  /// Name of each variable of the tree, by its number.
  std::vector<std::string> variables;
  /// Whether a name that is nothing else becomes a new variable.
  bool open = false;
  /// What `T` means, and the type of new variables.
  Type compute_type = Type::float32;
  /// Names that stand for expressions of the tree; wins over variables.
  std::map<std::string, NodeId, std::less<>> bound;

  /// Adds a variable and returns its expression.
  NodeId declare(Tree& tree, const std::string& name, Type type);
};

/// Reads a C expression, optionally after bindings (`let t = exp(x); t / (1 + t)`, or C's
/// `T t = exp(x); ...`), into the tree.
///
/// Types convert as in C: bool to int to uint to float. Functions may be qualified as in Metal
/// (`metal::exp`) and have the prefix `kk_`. `select(a, b, c)` is Metal's: b where c holds, else a;
/// `where(c, a, b)` is MLX's.
///
/// @throws SyntaxError with the place if the source is not an expression.
NodeId parse(std::string_view source, Tree& tree, Scope& scope);

/// Whether the name can be a variable's: an identifier that means nothing else.
bool is_free_name(std::string_view name);

/// Every function that expressions may call, sorted.
std::vector<std::string> function_names();

}  // namespace zmlx::kernel
