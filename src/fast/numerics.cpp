#include "fast/numerics.h"

#include <atomic>
#include <stdexcept>

#include "zmlx/fast.h"

namespace zmlx::fast {

namespace {

std::atomic<bool> default_is_exact{true};

bool parse_exact(const char* op, const std::string& numerics) {
  if (numerics == "exact") return true;
  if (numerics == "fp32") return false;
  throw std::invalid_argument("[" + std::string(op) +
                              "] numerics must be 'exact' or 'fp32', but is '" + numerics + "'.");
}

}  // namespace

std::string resolve_numerics(const char* op, const std::string& numerics) {
  if (numerics.empty()) return default_numerics();
  parse_exact(op, numerics);
  return numerics;
}

void check_max_rows(const char* op, int max_rows) {
  if (max_rows < 0) {
    throw std::invalid_argument("[" + std::string(op) + "] max_rows must not be negative, but is " +
                                std::to_string(max_rows) + ".");
  }
}

void set_default_numerics(const std::string& numerics) {
  default_is_exact = parse_exact("set_default_numerics", numerics);
}

std::string default_numerics() { return default_is_exact ? "exact" : "fp32"; }

}  // namespace zmlx::fast
