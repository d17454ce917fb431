#pragma once

#include <cstddef>
#include <cstdint>

namespace zmlx::cpu {

/// Reads `bytes` bytes (a multiple of 1,024, aligned to 64) and returns what keeps the reads alive.
uint64_t read_all(const uint8_t* p, size_t bytes);

/// Copies `bytes` bytes (likewise) with streaming stores.
void copy_all(const uint8_t* from, size_t bytes, uint8_t* to);

}  // namespace zmlx::cpu
