#include "cpu/target.h"

#include <cstdio>
#include <cstdlib>
#include <stdexcept>

#include "hwy/highway.h"
#include "hwy/targets.h"

namespace zmlx::cpu {

namespace {

#if (HWY_TARGETS & (HWY_TARGETS - 1)) == 0

// With one target Highway dispatches at compile time, and its headers are all that is needed.

int64_t chosen() { return HWY_TARGETS; }

std::vector<int64_t> available() { return {HWY_TARGETS}; }

void choose(int64_t) {}

#else

int64_t forced = 0;  ///< a target's bit, or 0

int64_t chosen() {
  const int64_t masks = hwy::SupportedTargets() & HWY_TARGETS;
  return masks & ~(masks - 1);  // better targets have lower bits
}

std::vector<int64_t> available() {
  hwy::SetSupportedTargetsForTest(0);
  auto masks = hwy::SupportedAndGeneratedTargets();
  hwy::SetSupportedTargetsForTest(forced);
  return masks;
}

/// Dispatch tables are indexed by the best bit of the chosen target's mask.
void choose(int64_t mask) {
  forced = mask;
  hwy::SetSupportedTargetsForTest(mask);
  hwy::GetChosenTarget().Update(hwy::SupportedTargets());
}

#endif

/// Applies ZMLX_CPU_TARGET when the library is loaded.
const bool from_environment = [] {
  const char* name = std::getenv("ZMLX_CPU_TARGET");
  if (!name || !*name) return false;
  try {
    set_target(name);
    return true;
  } catch (const std::invalid_argument& e) {
    std::fprintf(stderr, "[zmlx] ZMLX_CPU_TARGET: %s\n", e.what());
    return false;
  }
}();

}  // namespace

std::string target() { return hwy::TargetName(chosen()); }

std::vector<std::string> targets() {
  std::vector<std::string> names;
  for (int64_t mask : available()) names.push_back(hwy::TargetName(mask));
  return names;
}

void set_target(const std::string& name) {
  if (name.empty()) return choose(0);
  std::string names;
  for (int64_t mask : available()) {
    if (name == hwy::TargetName(mask)) return choose(mask);
    names += (names.empty() ? "'" : ", '") + std::string(hwy::TargetName(mask)) + "'";
  }
  throw std::invalid_argument("[set_cpu_target] this machine and build have " + names +
                              ", but not '" + name + "'.");
}

}  // namespace zmlx::cpu
