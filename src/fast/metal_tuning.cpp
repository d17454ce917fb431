#include "fast/metal_tuning.h"

#include <algorithm>
#include <charconv>
#include <cstdlib>
#include <stdexcept>

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

[[noreturn]] void fail(const std::string& entry) {
  throw std::invalid_argument("[ZMLX_METAL_TUNING] cannot use '" + entry +
                              "': entries are name=value, rows from 1 to 8, simdgroups to 32.");
}

void set(MetalTuning& tuning, const std::string& entry) {
  const auto split = entry.find('=');
  if (split == std::string::npos) fail(entry);
  for (const auto& field : kFields) {
    if (entry.compare(0, split, field.name) != 0) continue;
    const char* end = entry.data() + entry.size();
    int value = 0;
    const auto read = std::from_chars(entry.data() + split + 1, end, value);
    if (read.ec != std::errc() || read.ptr != end) fail(entry);
    if (value < 1 || value > field.largest) fail(entry);
    tuning.*field.value = value;
    return;
  }
  fail(entry);
}

}  // namespace

MetalTuning parse_metal_tuning(const std::string& text) {
  MetalTuning tuning;
  for (size_t begin = 0; begin < text.size();) {
    const size_t end = std::min(text.find(',', begin), text.size());
    set(tuning, text.substr(begin, end - begin));
    begin = end + 1;
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
