#pragma once

#include <cstddef>
#include <stdexcept>
#include <string>
#include <string_view>

namespace zmlx::kernel {

/// An expression that is not one. `what()` reads
///
///     column 9: expected an expression, but found ')'
///       x * (1 + )
///               ^
class SyntaxError : public std::invalid_argument {
 public:
  /// @param offset  of the place, in bytes from the start of `source`.
  SyntaxError(std::string_view source, size_t offset, const std::string& message);

  size_t line() const { return line_; }      ///< from 1
  size_t column() const { return column_; }  ///< from 1, in characters

 private:
  struct Place {
    size_t line, column;
    std::string text;
  };
  SyntaxError(const Place& place, const std::string& message);
  static Place locate(std::string_view source, size_t offset);

  size_t line_, column_;
};

}  // namespace zmlx::kernel
