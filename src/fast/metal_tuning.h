#pragma once

#include <string>

namespace zmlx::fast {

/// What sets a Metal kernel's launch and no result. docs/metal.md has the reasons for the defaults,
/// which were worked out on paper.
struct MetalTuning {
  int swiglu_rows = 2;         ///< of gate, and as many of up, that a simdgroup makes at a time
  int swiglu_simdgroups = 2;   ///< of a threadgroup
  int combine_rows = 4;        ///< of a matrix that a simdgroup makes at a time
  int combine_simdgroups = 8;  ///< of a threadgroup at most: one for each expert, then more rows
  int norm_simdgroups = 16;    ///< of a threadgroup at most
};

/// Defaults with what `text` sets, as in "swiglu_rows=4,norm_simdgroups=8".
/// @throws std::invalid_argument if a name is unknown, or a value not from 1 to 8 (rows) or 1
/// to 32.
MetalTuning parse_metal_tuning(const std::string& text);

/// What the environment variable ZMLX_METAL_TUNING says, read once.
const MetalTuning& metal_tuning();

}  // namespace zmlx::fast
