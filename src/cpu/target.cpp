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

bool detect_vnni() {
#if HWY_ARCH_X86
  return __builtin_cpu_supports("avx512vnni");
#else
  return false;
#endif
}
const bool has_vnni = detect_vnni();
bool vnni = has_vnni;  ///< whether kernels may use it

/// Whether a target is AVX-512 as of 2017, which leaves VNNI open: 8-bit dot products, in
/// processors from 2019 on. Highway 1.0 has them in no target that every such processor meets.
bool leaves_vnni_open(int64_t target) {
#if HWY_ARCH_X86
  return target == HWY_AVX3;
#else
  return target == 0;
#endif
}

/// What a caller can choose among.
struct Choice {
  std::string name;
  int64_t target;
  bool vnni;
};

std::vector<Choice> choices() {
  std::vector<Choice> all;
  for (int64_t target : available()) {
    const std::string name = hwy::TargetName(target);
    const bool open = leaves_vnni_open(target);
    if (open && has_vnni) all.push_back({name + "_VNNI", target, true});
    all.push_back({name, target, !open && has_vnni});
  }
  return all;
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
  for (const auto& choice : choices()) {
    if (choice.target == chosen() && choice.vnni == vnni) return choice.name;
  }
  return hwy::TargetName(chosen());
}

std::vector<std::string> targets() {
  std::vector<std::string> names;
  for (const auto& choice : choices()) names.push_back(choice.name);
  return names;
}

bool use_vnni() { return vnni; }

void set_target(const std::string& name) {
  if (name.empty()) {
    vnni = has_vnni;
    return choose(0);
  }
  std::string names;
  for (const auto& choice : choices()) {
    if (name == choice.name) {
      vnni = choice.vnni;
      return choose(choice.target);
    }
    names += (names.empty() ? "'" : ", '") + choice.name + "'";
  }
  throw std::invalid_argument("[set_cpu_target] this machine and build have " + names +
                              ", but not '" + name + "'.");
}

}  // namespace zmlx::cpu
