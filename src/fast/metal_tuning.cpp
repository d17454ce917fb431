#include "fast/metal_tuning.h"

#include <algorithm>
#include <charconv>
#include <cstdlib>
#include <stdexcept>
#include <string_view>

namespace zmlx::fast {

namespace {

struct Field {
  const char* name;
  int MetalTuning::* value;
  int largest;
};

constexpr Field kFields[] = {{"swiglu_rows", &MetalTuning::swiglu_rows, 8},
                             {"swiglu_simdgroups", &MetalTuning::swiglu_simdgroups, 32},
                             {"combine_rows", &MetalTuning::combine_rows, 8},
                             {"combine_simdgroups", &MetalTuning::combine_simdgroups, 32},
                             {"norm_simdgroups", &MetalTuning::norm_simdgroups, 32}};

[[noreturn]] void fail(std::string_view entry) {
  throw std::invalid_argument("[ZMLX_METAL_TUNING] cannot use '" + std::string(entry) +
                              "': entries are name=value, rows from 1 to 8, simdgroups to 32.");
}

void set(MetalTuning& tuning, std::string_view entry) {
  const auto split = entry.find('=');
  if (split == std::string_view::npos) fail(entry);
  for (const auto& field : kFields) {
    if (entry.substr(0, split) != field.name) continue;
    const char* end = entry.data() + entry.size();
    int value = 0;
    const auto [stopped, error] = std::from_chars(entry.data() + split + 1, end, value);
    if (error != std::errc() || stopped != end || value < 1 || value > field.largest) fail(entry);
    tuning.*field.value = value;
    return;
  }
  fail(entry);
}

}  // namespace

MetalTuning parse_metal_tuning(const std::string& text) {
  MetalTuning tuning;
  std::string_view rest = text;
  while (!rest.empty()) {
    const auto entry = rest.substr(0, rest.find(','));
    set(tuning, entry);
    rest.remove_prefix(std::min(rest.size(), entry.size() + 1));
  }
  return tuning;
}

const MetalTuning& metal_tuning() {
  static const MetalTuning tuning = [] {
    const char* text = std::getenv("ZMLX_METAL_TUNING");
    return text ? parse_metal_tuning(text) : MetalTuning();
  }();
  return tuning;
}

}  // namespace zmlx::fast
