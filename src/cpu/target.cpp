#include "cpu/target.h"

#include <cstdio>
#include <cstdlib>
#include <stdexcept>

#include "hwy/highway.h"
#include "hwy/targets.h"

namespace zmlx::cpu {

namespace {

int64_t forced = 0;  ///< a target's bit, or 0

/// What Highway calls AVX3, with VNNI: 8-bit dot products, in processors from 2019 on. Highway 1.0
/// has them in no target that every such processor meets.
constexpr const char* kVnni = "AVX3_VNNI";

bool detect_vnni() {
#if HWY_ARCH_X86
  return __builtin_cpu_supports("avx512vnni");
#else
  return false;
#endif
}
const bool has_vnni = detect_vnni();
bool vnni = has_vnni;  ///< whether kernels may use it

bool is_avx3(int64_t target) {
#if HWY_ARCH_X86
  return target == HWY_AVX3;
#else
  return target < 0;
#endif
}

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

bool use_vnni() { return vnni; }

std::string target() {
  const int64_t masks = hwy::SupportedTargets() & HWY_TARGETS;
  const int64_t best = masks & ~(masks - 1);  // better targets have lower bits
  return vnni && is_avx3(best) ? kVnni : hwy::TargetName(best);
}

std::vector<std::string> targets() {
  hwy::SetSupportedTargetsForTest(0);
  std::vector<std::string> names;
  for (int64_t mask : hwy::SupportedAndGeneratedTargets()) {
    if (has_vnni && is_avx3(mask)) names.push_back(kVnni);
    names.push_back(hwy::TargetName(mask));
  }
  hwy::SetSupportedTargetsForTest(forced);
  return names;
}

void set_target(const std::string& name) {
  if (name.empty()) {
    vnni = has_vnni;
    return force(0);
  }
  std::string available;
  for (const auto& each : targets()) {
    available += (available.empty() ? "'" : ", '") + each + "'";
  }
  hwy::SetSupportedTargetsForTest(0);
  for (int64_t mask : hwy::SupportedAndGeneratedTargets()) {
    const bool with_vnni = has_vnni && is_avx3(mask) && name == kVnni;
    if (!with_vnni && name != hwy::TargetName(mask)) continue;
    vnni = with_vnni || (has_vnni && !is_avx3(mask));
    return force(mask);
  }
  hwy::SetSupportedTargetsForTest(forced);
  throw std::invalid_argument("[set_cpu_target] this machine and build have " + available +
                              ", but not '" + name + "'.");
}

}  // namespace zmlx::cpu
