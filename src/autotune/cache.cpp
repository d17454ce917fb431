#include "autotune/cache.h"

#include <unistd.h>

#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>

namespace zmlx::autotune_cache {

namespace {

namespace fs = std::filesystem;

constexpr const char* kMagic = "zmlx-autotune 1";

uint64_t hash_of(const std::string& text) {
  uint64_t hash = 14695981039346656037u;  // FNV-1a
  for (char c : text) hash = (hash ^ static_cast<uint8_t>(c)) * 1099511628211u;
  return hash;
}

std::string hexadecimal(uint64_t value) {
  std::ostringstream out;
  out << std::hex << value;
  return out.str();
}

/// The whole file: what it is, the key, the choice of how many, and a checksum of that.
std::string content(const std::string& key, size_t choice, size_t candidates) {
  std::string body = std::string(kMagic) + "\n" + key + "\n" + std::to_string(choice) + " " +
                     std::to_string(candidates) + "\n";
  return body + hexadecimal(hash_of(body)) + "\n";
}

std::string one_line(std::string key) {
  for (char& c : key) {
    if (c == '\n' || c == '\r') c = ' ';
  }
  return key;
}

}  // namespace

std::string directory() {
  if (const char* set = std::getenv("ZMLX_CACHE_DIR"); set && *set) {
    return (fs::path(set) / "autotune").string();
  }
  const char* cache = std::getenv("XDG_CACHE_HOME");
  const char* home = std::getenv("HOME");
  const fs::path base = cache && *cache ? fs::path(cache)
                        : home && *home ? fs::path(home) / ".cache"
                                        : fs::temp_directory_path();
  return (base / "zmlx" / "autotune").string();
}

std::string path_of(const std::string& key) {
  return (fs::path(directory()) / (hexadecimal(hash_of(one_line(key))) + ".txt")).string();
}

std::optional<size_t> load(const std::string& given, size_t candidates) {
  const auto key = one_line(given);
  std::ifstream file(path_of(key), std::ios::binary);
  if (!file) return std::nullopt;
  std::ostringstream read;
  read << file.rdbuf();
  const auto text = read.str();
  // Only what this would write for some choice is believed: the key may have the hash of another.
  for (size_t choice = 0; choice < candidates; ++choice) {
    if (text == content(key, choice, candidates)) return choice;
  }
  return std::nullopt;
}

void store(const std::string& given, size_t choice, size_t candidates) {
  static std::atomic<int> written{0};
  const auto key = one_line(given);
  std::error_code error;
  fs::create_directories(directory(), error);
  const fs::path path = path_of(key);
  fs::path temporary = path;
  temporary += "." + std::to_string(getpid()) + "." + std::to_string(++written);
  {
    std::ofstream file(temporary, std::ios::binary | std::ios::trunc);
    file << content(key, choice, candidates);
    if (!file.flush()) {
      file.close();
      fs::remove(temporary, error);
      return;
    }
  }
  fs::rename(temporary, path, error);  // replaces in one step
  if (error) fs::remove(temporary, error);
}

void clear() {
  std::error_code error;
  fs::remove_all(directory(), error);
}

}  // namespace zmlx::autotune_cache
