#pragma once

#include <string>
#include <vector>

/// The instruction set that the kernels were dispatched to.
namespace zmlx::cpu {

std::string target();
std::vector<std::string> targets();
/// @throws std::invalid_argument if `name` is not among targets().
void set_target(const std::string& name);

}  // namespace zmlx::cpu
