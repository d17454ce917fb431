#pragma once

#include <string>
#include <vector>

/// The instruction set that the kernels were dispatched to.
namespace zmlx::cpu {

/// Highway's name, or "AVX3_VNNI" where AVX-512 comes with its 8-bit dot products.
std::string target();
std::vector<std::string> targets();
/// @throws std::invalid_argument if `name` is not among targets().
void set_target(const std::string& name);

/// Whether kernels that are compiled for AVX-512 may use VNNI.
bool use_vnni();

}  // namespace zmlx::cpu
