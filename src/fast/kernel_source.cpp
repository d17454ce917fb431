#include "fast/kernel_source.h"

#include <algorithm>
#include <set>
#include <stdexcept>
#include <string_view>

namespace zmlx::fast {

namespace {

/// The sources hold no string literals and no block comments, so two slashes start a comment.
std::string_view without_comment(std::string_view line) {
  line = line.substr(0, line.find("//"));
  const auto first = line.find_first_not_of(' ');
  if (first == std::string_view::npos) return {};
  return line.substr(first, line.find_last_not_of(' ') + 1 - first);
}

void append(const SourceFolder& folder, const std::string& name, std::set<std::string>& included,
            std::string& out) {
  if (!included.insert(name).second) return;
  std::string_view rest = source_text(folder, name);
  while (!rest.empty()) {
    const auto line = rest.substr(0, rest.find('\n'));
    rest.remove_prefix(std::min(rest.size(), line.size() + 1));
    constexpr std::string_view kInclude = "#include \"";
    if (line.starts_with(kInclude)) {
      const auto file = line.substr(kInclude.size(), line.rfind('"') - kInclude.size());
      append(folder, std::string(file), included, out);
      continue;
    }
    const auto text = without_comment(line);
    if (text.empty() || text == "#pragma once") continue;
    out += text;
    out += '\n';
  }
}

}  // namespace

const char* source_text(const SourceFolder& folder, const std::string& name) {
  for (size_t i = 0; i < folder.count; ++i) {
    if (name == folder.files[i].name) return folder.files[i].text;
  }
  throw std::logic_error("[kernel_source] there is no file " + name + " in " + folder.name + ".");
}

std::string kernel_source(const SourceFolder& folder, const std::string& name) {
  std::set<std::string> included;
  std::string out;
  append(folder, name, included, out);
  return out;
}

}  // namespace zmlx::fast
