#include "fast/cuda_source.h"

#include <set>
#include <sstream>
#include <stdexcept>
#include <string_view>

namespace zmlx::fast {

namespace {

const char* text_of(const std::string& name) {
  for (size_t i = 0; i < kCudaFileCount; ++i) {
    if (name == kCudaFiles[i].name) return kCudaFiles[i].text;
  }
  throw std::logic_error("[cuda_source] there is no file " + name + ".");
}

/// The sources hold no string literals and no block comments, so two slashes start a comment.
std::string_view without_comment(std::string_view line) {
  line = line.substr(0, line.find("//"));
  const auto first = line.find_first_not_of(' ');
  if (first == std::string_view::npos) return {};
  return line.substr(first, line.find_last_not_of(' ') + 1 - first);
}

void append(const std::string& name, std::set<std::string>& included, std::string& out) {
  if (!included.insert(name).second) return;
  std::istringstream lines(text_of(name));
  for (std::string line; std::getline(lines, line);) {
    constexpr std::string_view kInclude = "#include \"";
    if (line.starts_with(kInclude)) {
      append(line.substr(kInclude.size(), line.rfind('"') - kInclude.size()), included, out);
      continue;
    }
    const auto text = without_comment(line);
    if (text.empty() || text == "#pragma once") continue;
    out += text;
    out += '\n';
  }
}

}  // namespace

std::string cuda_source(const std::string& name) {
  std::set<std::string> included;
  std::string out;
  append(name, included, out);
  return out;
}

}  // namespace zmlx::fast
