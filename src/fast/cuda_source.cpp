#include "fast/cuda_source.h"

#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <set>
#include <stdexcept>
#include <string_view>
#include <vector>

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
  std::string_view rest = text_of(name);
  while (!rest.empty()) {
    const auto line = rest.substr(0, rest.find('\n'));
    rest.remove_prefix(std::min(rest.size(), line.size() + 1));
    constexpr std::string_view kInclude = "#include \"";
    if (line.starts_with(kInclude)) {
      const auto file = line.substr(kInclude.size(), line.rfind('"') - kInclude.size());
      append(std::string(file), included, out);
      continue;
    }
    const auto text = without_comment(line);
    if (text.empty() || text == "#pragma once") continue;
    out += text;
    out += '\n';
  }
}

/// A folder of this process for what NVRTC reads. C's files, not C++'s: their locales are shared
/// with whatever else the process has loaded.
class SourceFolder {
 public:
  SourceFolder() {
    const char* parent = std::getenv("TMPDIR");
    auto pattern = std::string(parent && *parent ? parent : "/tmp") + "/zmlx-cuda-XXXXXX";
    if (mkdtemp(pattern.data())) path_ = pattern;
  }
  ~SourceFolder() {
    // A forked process leaves it to the one that made it.
    if (path_.empty() || getpid() != owner_) return;
    for (const auto& file : files_) std::remove(file.c_str());
    rmdir(path_.c_str());
  }
  SourceFolder(const SourceFolder&) = delete;
  SourceFolder& operator=(const SourceFolder&) = delete;

  /// The path of a new file, or nothing if it cannot be written. One thread at a time.
  std::string write(const std::string& name, const std::string& text) {
    if (path_.empty()) return "";
    const auto path = path_ + "/" + name;
    std::FILE* file = std::fopen(path.c_str(), "wb");
    if (!file) return "";
    files_.push_back(path);
    const bool written = std::fwrite(text.data(), 1, text.size(), file) == text.size();
    return std::fclose(file) == 0 && written ? path : "";
  }

 private:
  const pid_t owner_ = getpid();
  std::string path_;
  std::vector<std::string> files_;
};

}  // namespace

std::string cuda_include(const std::string& name, const std::string& text) {
  static SourceFolder folder;
  const auto path = folder.write(name, text);
  return path.empty() ? text : "#include \"" + path + "\"\n";
}

std::string cuda_source(const std::string& name) {
  std::set<std::string> included;
  std::string out;
  append(name, included, out);
  return out;
}

}  // namespace zmlx::fast
