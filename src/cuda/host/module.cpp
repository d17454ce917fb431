#include "cuda/host/module.h"

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <mutex>
#include <stdexcept>
#include <tuple>

#include "cuda/host/api.h"

namespace zmlx::cuda {

namespace {

constexpr int kMaxDynamicSharedBytes = 8;  // CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES

std::string architecture(int compute_capability) {
  // As MLX compiles its own: the features of just this architecture where there are any.
  return "sm_" + std::to_string(compute_capability) + (compute_capability >= 90 ? "a" : "");
}

/// FNV-1a; 64 bits tell some hundred sources apart.
uint64_t hash_of(const std::string& text) {
  uint64_t hash = 0xcbf29ce484222325;
  for (unsigned char c : text) hash = (hash ^ c) * 0x100000001b3;
  return hash;
}

bool make_folders(const std::string& path) {
  for (size_t end = path.find('/', 1);; end = path.find('/', end + 1)) {
    if (mkdir(path.substr(0, end).c_str(), 0777) != 0 && errno != EEXIST) return false;
    if (end == std::string::npos) return true;
  }
}

/// Where compiled kernels are kept; empty if nowhere.
const std::string& cache_folder() {
  static const auto* folder = new std::string([]() -> std::string {
    std::string path;
    if (const char* own = std::getenv("ZMLX_CACHE_DIR")) {
      path = own;
    } else if (const char* cache = std::getenv("XDG_CACHE_HOME"); cache && *cache) {
      path = std::string(cache) + "/zmlx";
    } else if (const char* home = std::getenv("HOME"); home && *home) {
      path = std::string(home) + "/.cache/zmlx";
    }
    if (path.empty()) return "";
    path += "/cuda";
    return make_folders(path) ? path : "";
  }());
  return *folder;
}

// C's files, not C++'s: a C++ library linked statically into this one (some toolchains do that)
// has locales that clash with those of the process.
std::string read_file(const std::string& path) {
  std::string text;
  std::FILE* file = std::fopen(path.c_str(), "rb");
  if (!file) return text;
  char buffer[1 << 14];
  for (size_t n; (n = std::fread(buffer, 1, sizeof(buffer), file)) > 0;) text.append(buffer, n);
  std::fclose(file);
  return text;
}

/// Writes under another name first, so that nobody reads half a file.
void write_file(const std::string& path, const std::string& text) {
  const auto partial = path + "." + std::to_string(getpid());
  std::FILE* file = std::fopen(partial.c_str(), "wb");
  if (!file) return;
  bool whole = std::fwrite(text.data(), 1, text.size(), file) == text.size();
  whole &= std::fclose(file) == 0;
  if (!whole || std::rename(partial.c_str(), path.c_str()) != 0) std::remove(partial.c_str());
}

std::string file_text(const std::string& head, const std::string& image) {
  return head + std::to_string(image.size()) + "\n" + image;
}

/// A compiled source, from its file if there is one. The file holds the source and the size as
/// well, so that neither another source of the same hash nor half a file is taken for it.
std::string compiled(const std::string& source, int compute_capability) {
  int major = 0, minor = 0;
  api().nvrtcVersion(&major, &minor);
  const auto head = architecture(compute_capability) + " " + std::to_string(major) + "." +
                    std::to_string(minor) + "\n" + source + '\0';
  char name[32];
  std::snprintf(name, sizeof(name), "/%016llx.cubin",
                static_cast<unsigned long long>(hash_of(head)));
  const auto path = cache_folder().empty() ? "" : cache_folder() + name;
  if (!path.empty()) {
    const auto text = read_file(path);
    if (text.starts_with(head)) {
      auto image = text.substr(std::min(text.find('\n', head.size()), text.size() - 1) + 1);
      if (text == file_text(head, image)) return image;
    }
  }
  auto image = compile(source, compute_capability);
  if (!path.empty()) write_file(path, file_text(head, image));
  return image;
}

std::string log_of(void* program) {
  size_t bytes = 0;
  api().nvrtcGetProgramLogSize(program, &bytes);
  std::string log(bytes, '\0');
  if (bytes > 0) api().nvrtcGetProgramLog(program, log.data());
  return log.substr(0, 2000);
}

}  // namespace

std::string compile(const std::string& source, int compute_capability) {
  const auto& a = api();
  const auto target = "--gpu-architecture=" + architecture(compute_capability);
  const auto include = "--include-path=" + a.include_folder;
  const char* options[] = {target.c_str(), include.c_str(), "--std=c++17"};
  void* program = nullptr;
  const bool good =
      a.nvrtcCreateProgram(&program, source.c_str(), "zmlx.cu", 0, nullptr, nullptr) == 0 &&
      a.nvrtcCompileProgram(program, 3, options) == 0;
  std::string image, log;
  size_t bytes = 0;
  if (good && a.nvrtcGetCUBINSize(program, &bytes) == 0) {
    image.resize(bytes);
    if (a.nvrtcGetCUBIN(program, image.data()) != 0) image.clear();
  }
  if (image.empty() && program) log = log_of(program);
  if (program) a.nvrtcDestroyProgram(&program);
  if (image.empty()) throw std::runtime_error("[zmlx] A CUDA kernel does not compile:\n" + log);
  return image;
}

void* kernel_function(const std::string& source, const std::string& name, int device,
                      int compute_capability, int shared_bytes) {
  static auto* functions = new std::map<std::tuple<int, int, std::string>, void*>;  // leaked
  static auto* mutex = new std::mutex;
  std::lock_guard lock(*mutex);
  auto& function = (*functions)[{device, shared_bytes, source}];
  if (function) return function;
  void *module = nullptr, *found = nullptr;
  const auto image = compiled(source, compute_capability);
  check(api().cuModuleLoadData(&module, image.data()), "cuModuleLoadData");
  check(api().cuModuleGetFunction(&found, module, name.c_str()), "cuModuleGetFunction");
  check(api().cuFuncSetAttribute(found, kMaxDynamicSharedBytes, shared_bytes),
        "cuFuncSetAttribute");
  return function = found;
}

}  // namespace zmlx::cuda
