#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

#include "kernel/expression.h"

namespace zmlx::kernel {

enum class TokenKind : uint8_t { number, name, sign, end };

struct Token {
  TokenKind kind;
  std::string_view text;      ///< in the source; empty at the end
  size_t offset;              ///< of the text in the source
  Type type = Type::float32;  ///< of a number
  double value = 0;           ///< of a number
};

/// Splits C source into tokens; the last one is the end. Names may be qualified (`metal::exp`).
/// Numbers: decimal and hexadecimal integers (suffix u), floats (suffixes f,
/// h and bf). Comments are
/// skipped.
/// @throws SyntaxError at a character or number that C does not have, and beyond kMaxSourceLength.
std::vector<Token> tokenize(std::string_view source);

/// How a token is named in errors: "')'", "the end".
std::string describe(const Token& token);

}  // namespace zmlx::kernel
