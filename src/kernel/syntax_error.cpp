#include "kernel/syntax_error.h"

#include <algorithm>

namespace zmlx::kernel {

namespace {

/// Characters of UTF-8 text: bytes that do not continue one.
size_t characters(std::string_view text) {
  return std::count_if(text.begin(), text.end(), [](char c) { return (c & 0xC0) != 0x80; });
}

/// What is shown of a long line, so that the caret stays in sight.
constexpr size_t kBefore = 60, kAfter = 30;

/// The first byte of the character that `offset` lies in.
size_t character_start(std::string_view text, size_t offset) {
  while (offset > 0 && offset < text.size() && (text[offset] & 0xC0) == 0x80) --offset;
  return offset;
}

std::string excerpt(std::string_view line, size_t offset) {
  const size_t begin = offset > kBefore ? character_start(line, offset - kBefore) : 0;
  const size_t end = character_start(line, std::min(line.size(), offset + kAfter));
  std::string shown(line.substr(begin, end - begin));
  std::replace(shown.begin(), shown.end(), '\t', ' ');
  const std::string lead = begin > 0 ? "..." : "";
  const size_t indent = lead.size() + characters(line.substr(begin, offset - begin));
  return "\n  " + lead + shown + (end < line.size() ? "..." : "") + "\n  " +
         std::string(indent, ' ') + "^";
}

}  // namespace

SyntaxError::SyntaxError(std::string_view source, size_t offset, const std::string& message)
    : SyntaxError(locate(source, offset), message) {}

SyntaxError::SyntaxError(const Place& place, const std::string& message)
    : std::invalid_argument((place.line > 1 ? "line " + std::to_string(place.line) + ", " : "") +
                            "column " + std::to_string(place.column) + ": " + message + place.text),
      line_(place.line),
      column_(place.column) {}

SyntaxError::Place SyntaxError::locate(std::string_view source, size_t offset) {
  offset = std::min(offset, source.size());
  const auto before = source.substr(0, offset);
  const size_t newline = before.rfind('\n');
  const size_t begin = newline == std::string_view::npos ? 0 : newline + 1;
  const auto line = source.substr(begin, source.find('\n', begin) - begin);
  return {static_cast<size_t>(std::count(before.begin(), before.end(), '\n')) + 1,
          characters(line.substr(0, offset - begin)) + 1, excerpt(line, offset - begin)};
}

}  // namespace zmlx::kernel
