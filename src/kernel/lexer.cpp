#include "kernel/lexer.h"

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <clocale>
#include <cmath>
#include <cstdlib>

#include "kernel/syntax_error.h"

namespace zmlx::kernel {

namespace {

bool is_digit(char c) { return c >= '0' && c <= '9'; }
bool is_letter(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_'; }
bool is_word(char c) { return is_letter(c) || is_digit(c); }

/// Longer ones first.
constexpr std::string_view kSigns[] = {"<<", ">>", "<=", ">=", "==", "!=", "&&", "||", "+",
                                       "-",  "*",  "/",  "%",  "(",  ")",  ",",  "?",  ":",
                                       "<",  ">",  "!",  "&",  "|",  "^",  "~",  "=",  ";"};

class Lexer {
 public:
  explicit Lexer(std::string_view source) : source_(source) {}

  std::vector<Token> run() {
    if (source_.size() > kMaxSourceLength) {
      throw SyntaxError(
          source_, kMaxSourceLength,
          "an expression may have at most " + std::to_string(kMaxSourceLength) + " characters");
    }
    std::vector<Token> tokens;
    do {
      skip_blanks();
      tokens.push_back(next());
    } while (tokens.back().kind != TokenKind::end);
    return tokens;
  }

 private:
  char at(size_t i) const { return i < source_.size() ? source_[i] : '\0'; }

  void skip_blanks() {
    for (;;) {
      while (at(i_) == ' ' || at(i_) == '\t' || at(i_) == '\n' || at(i_) == '\r') ++i_;
      const auto rest = source_.substr(std::min(i_, source_.size()));
      if (rest.starts_with("//")) {
        i_ = std::min(source_.find('\n', i_), source_.size());
      } else if (rest.starts_with("/*")) {
        const size_t end = source_.find("*/", i_ + 2);
        if (end == std::string_view::npos)
          throw SyntaxError(source_, i_, "this comment has no end");
        i_ = end + 2;
      } else {
        return;
      }
    }
  }

  Token token(TokenKind kind, size_t length) {
    Token result{kind, source_.substr(i_, length), i_};
    i_ += length;
    return result;
  }

  Token next() {
    if (i_ >= source_.size()) return {TokenKind::end, {}, source_.size()};
    const char c = source_[i_];
    if (is_digit(c) || (c == '.' && is_digit(at(i_ + 1)))) return number();
    if (is_letter(c)) return name();
    for (const auto sign : kSigns) {
      if (source_.substr(i_).starts_with(sign)) return token(TokenKind::sign, sign.size());
    }
    size_t length = 1;
    while ((at(i_ + length) & 0xC0) == 0x80) ++length;
    const bool printable = (c & 0x80) != 0 || c >= ' ';
    throw SyntaxError(source_, i_,
                      printable ? "'" + std::string(source_.substr(i_, length)) +
                                      "' has no meaning in an expression"
                                : "a control character has no meaning in an expression");
  }

  Token name() {
    size_t end = i_;
    for (;;) {
      while (is_word(at(end))) ++end;
      if (at(end) != ':' || at(end + 1) != ':' || !is_letter(at(end + 2))) break;
      end += 2;
    }
    return token(TokenKind::name, end - i_);
  }

  /// Everything that a number could go on with is taken, so that "1.2.3" is one wrong number.
  size_t number_end(bool hexadecimal) const {
    size_t end = i_;
    while (is_word(at(end)) || at(end) == '.' ||
           (!hexadecimal && (at(end) == '+' || at(end) == '-') &&
            (at(end - 1) == 'e' || at(end - 1) == 'E'))) {
      ++end;
    }
    return end;
  }

  [[noreturn]] void bad_number(std::string_view text) {
    throw SyntaxError(source_, i_, "'" + std::string(text) + "' is not a number");
  }

  Token number() {
    const bool hexadecimal = at(i_) == '0' && (at(i_ + 1) == 'x' || at(i_ + 1) == 'X');
    const auto text = source_.substr(i_, number_end(hexadecimal) - i_);
    const bool integral = hexadecimal || text.find_first_of(".eEfFhH") == std::string_view::npos;
    Token result = integral ? integer(text, hexadecimal) : real(text);
    return result;
  }

  Token integer(std::string_view text, bool hexadecimal) {
    auto digits = hexadecimal ? text.substr(2) : text;
    bool is_unsigned = false;
    while (!digits.empty() &&
           std::string_view("uUlL").find(digits.back()) != std::string_view::npos) {
      is_unsigned = is_unsigned || digits.back() == 'u' || digits.back() == 'U';
      digits.remove_suffix(1);
    }
    uint64_t value = 0;
    const auto [end, error] =
        std::from_chars(digits.data(), digits.data() + digits.size(), value, hexadecimal ? 16 : 10);
    if (digits.empty() || end != digits.data() + digits.size()) bad_number(text);
    if (error != std::errc() || value > 0xFFFFFFFFu) {
      throw SyntaxError(source_, i_, "the integer " + std::string(text) + " needs over 32 bits");
    }
    Token result = token(TokenKind::number, text.size());
    result.type = is_unsigned || value > 0x7FFFFFFFu ? Type::uint32 : Type::int32;
    result.value = static_cast<double>(value);
    return result;
  }

  Token real(std::string_view text) {
    auto digits = text;
    Type type = Type::float32;
    const auto end_of = [&](std::string_view suffix, Type meant) {
      if (!digits.ends_with(suffix) || digits.size() < text.size()) return;
      digits.remove_suffix(suffix.size());
      type = meant;
    };
    for (const auto suffix : {"bf", "BF"}) end_of(suffix, Type::bfloat16);
    for (const auto suffix : {"f", "F"}) end_of(suffix, Type::float32);
    for (const auto suffix : {"h", "H"}) end_of(suffix, Type::float16);
    // Not std::from_chars, which some C++ libraries lack for floats; strtod goes by the locale.
    std::string number(digits);
    std::replace(number.begin(), number.end(), '.', *std::localeconv()->decimal_point);
    char* end = nullptr;
    errno = 0;
    const double value = std::strtod(number.c_str(), &end);
    if (number.empty() || end != number.c_str() + number.size()) bad_number(text);
    if (errno == ERANGE || (is_half(type) && std::isinf(as_type(value, type)))) {
      throw SyntaxError(source_, i_, "the number " + std::string(text) + " is out of range");
    }
    Token result = token(TokenKind::number, text.size());
    result.type = type;
    result.value = value;
    return result;
  }

  std::string_view source_;
  size_t i_ = 0;
};

}  // namespace

std::vector<Token> tokenize(std::string_view source) { return Lexer(source).run(); }

std::string describe(const Token& token) {
  if (token.kind == TokenKind::end) return "the end";
  constexpr size_t kLongest = 40;
  std::string text(token.text.substr(0, kLongest));
  if (token.text.size() > kLongest) text.append("...");
  return std::string(1, '\'').append(text).append(1, '\'');
}

}  // namespace zmlx::kernel
