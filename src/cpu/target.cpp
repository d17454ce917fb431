#include "cpu/target.h"

#include <cstdio>
#include <cstdlib>
#include <stdexcept>

#include "hwy/highway.h"
#include "hwy/targets.h"

namespace zmlx::cpu {

namespace {

int64_t forced = 0;  ///< a target's bit, or 0

/// Dispatch tables are indexed by the best bit of the chosen target's mask.
void force(int64_t mask) {
  forced = mask;
  hwy::SetSupportedTargetsForTest(mask);
  hwy::GetChosenTarget().Update(hwy::SupportedTargets());
}

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

std::string target() {
  const int64_t masks = hwy::SupportedTargets() & HWY_TARGETS;
  return hwy::TargetName(masks & ~(masks - 1));  // better targets have lower bits
}

std::vector<std::string> targets() {
  hwy::SetSupportedTargetsForTest(0);
  std::vector<std::string> names;
  for (int64_t mask : hwy::SupportedAndGeneratedTargets()) names.push_back(hwy::TargetName(mask));
  hwy::SetSupportedTargetsForTest(forced);
  return names;
}

void set_target(const std::string& name) {
  if (name.empty()) return force(0);
  std::string available;
  for (const auto& each : targets()) {
    available += (available.empty() ? "'" : ", '") + each + "'";
  }
  hwy::SetSupportedTargetsForTest(0);
  for (int64_t mask : hwy::SupportedAndGeneratedTargets()) {
    if (name == hwy::TargetName(mask)) return force(mask);
  }
  hwy::SetSupportedTargetsForTest(forced);
  throw std::invalid_argument("[set_cpu_target] this machine and build have " + available +
                              ", but not '" + name + "'.");
}

}  // namespace zmlx::cpu
