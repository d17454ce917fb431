#include <cstdio>
#include <map>
#include <mutex>

#include "kernel/definition.h"
#include "zmlx/kernel.h"

namespace zmlx {

namespace kernel {

namespace {

/// Kernels are small; a program that makes ever new formulas starts over here.
constexpr size_t kMostDefinitions = 4096;

struct Registry {
  std::mutex mutex;
  std::map<std::string, std::shared_ptr<const Definition>> definitions;
};

Registry& registry() {
  static auto* instance = new Registry;  // leaked: arrays may outlive static objects
  return *instance;
}

}  // namespace

std::shared_ptr<const Definition> find_or_define(
    const std::string& key, const std::function<std::shared_ptr<const Definition>()>& make) {
  auto& [mutex, definitions] = registry();
  {
    std::lock_guard lock(mutex);
    if (const auto found = definitions.find(key); found != definitions.end()) {
      ++found->second->statistics().definitions;
      return found->second;
    }
  }
  const auto start = std::chrono::steady_clock::now();
  auto made = make();
  const auto taken = std::chrono::steady_clock::now() - start;
  made->statistics().define_nanoseconds =
      std::chrono::duration_cast<std::chrono::nanoseconds>(taken).count();
  std::lock_guard lock(mutex);
  if (definitions.size() >= kMostDefinitions) definitions.clear();
  const auto kept = definitions.emplace(key, std::move(made)).first->second;
  ++kept->statistics().definitions;
  return kept;
}

std::string default_name(const std::string& kind, const std::string& formula) {
  uint32_t hash = 2166136261u;  // FNV-1a
  for (char c : formula) hash = (hash ^ static_cast<uint8_t>(c)) * 16777619u;
  char text[12];
  std::snprintf(text, sizeof(text), "_%08x", hash);
  return kind + text;
}

}  // namespace kernel

std::vector<KernelRecord> kernel_registry() {
  auto& [mutex, definitions] = kernel::registry();
  std::lock_guard lock(mutex);
  std::vector<KernelRecord> records;
  for (const auto& [key, definition] : definitions) {
    const auto& counts = definition->statistics();
    records.push_back(
        {definition->name(), definition->kind(), definition->formula(), counts.definitions,
         counts.calls, static_cast<double>(counts.define_nanoseconds) * 1e-9,
         static_cast<double>(counts.compile_nanoseconds) * 1e-9, counts.compilations});
  }
  return records;
}

void clear_kernel_registry() {
  auto& [mutex, definitions] = kernel::registry();
  std::lock_guard lock(mutex);
  definitions.clear();
}

}  // namespace zmlx
