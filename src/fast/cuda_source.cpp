#include "fast/cuda_source.h"

#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
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

/// A folder of this process for what NVRTC reads.
class SourceFolder {
 public:
  SourceFolder() {
    std::error_code error;
    auto pattern = (std::filesystem::temp_directory_path(error) / "zmlx-cuda-XXXXXX").string();
    if (!error && mkdtemp(pattern.data())) path_ = pattern;
  }
  ~SourceFolder() {
    std::error_code error;
    // A forked process leaves it to the one that made it.
    if (!path_.empty() && getpid() == owner_) std::filesystem::remove_all(path_, error);
  }
  SourceFolder(const SourceFolder&) = delete;
  SourceFolder& operator=(const SourceFolder&) = delete;

  /// The path of a new file, or nothing if it cannot be written.
  std::string write(const std::string& name, const std::string& text) const {
    if (path_.empty()) return "";
    const auto path = path_ + "/" + name;
    std::ofstream file(path, std::ios::binary);
    file << text;
    file.close();
    return file ? path : "";
  }

 private:
  const pid_t owner_ = getpid();
  std::string path_;
};

}  // namespace

std::string cuda_include(const std::string& name, const std::string& text) {
  static const SourceFolder folder;
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
