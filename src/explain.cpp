#include "zmlx/explain.h"

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <optional>
#include <set>
#include <utility>

namespace zmlx {

namespace {

thread_local std::optional<std::vector<Path>> recording;

bool verbose() {
  static const bool on = [] {
    const char* value = std::getenv("ZMLX_VERBOSE");
    return value && *value && std::strcmp(value, "0") != 0;
  }();
  return on;
}

void print_once(const Path& path) {
  static std::mutex mutex;
  static std::set<std::string> printed;
  auto line = "[zmlx] " + path.op + ": " + path.path;
  if (!path.reason.empty()) line += " (" + path.reason + ")";
  std::lock_guard lock(mutex);
  if (printed.insert(line).second) std::fprintf(stderr, "%s\n", line.c_str());
}

}  // namespace

namespace detail {

void note_path(Path path) {
  if (verbose()) print_once(path);
  if (recording) recording->push_back(std::move(path));
}

void begin_recording() { recording.emplace(); }

std::vector<Path> end_recording() {
  auto paths = recording ? std::move(*recording) : std::vector<Path>{};
  recording.reset();
  return paths;
}

}  // namespace detail

std::vector<Path> explain(const std::function<void()>& f) {
  struct Guard {
    ~Guard() { recording.reset(); }
  } guard;
  detail::begin_recording();
  f();
  return detail::end_recording();
}

}  // namespace zmlx
