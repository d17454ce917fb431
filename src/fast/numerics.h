#pragma once

#include <string>

namespace zmlx::fast {

/// The numerics that a call asks for: `numerics`, or the global default if it is empty.
/// @throws std::invalid_argument if it is neither "exact" nor "fp32".
std::string resolve_numerics(const char* op, const std::string& numerics);

/// @throws std::invalid_argument if `max_rows` is negative.
void check_max_rows(const char* op, int max_rows);

}  // namespace zmlx::fast
