#pragma once

#include <cstddef>

namespace zmlx::cpu {

/// Moves the whole huge pages within [data, data + bytes) into such, in place.
/// @return their size, or 0 if the system does not do that.
size_t use_huge_pages(const void* data, size_t bytes);

}  // namespace zmlx::cpu
