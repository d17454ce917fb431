#pragma once

#include <vector>

#include "kernel/expression.h"

/// float16 and bfloat16, which no backend computes in: what an operation gives in float32 is
/// rounded to the type. For `+ - * /` and sqrt that is what arithmetic in the type itself gives, as
/// float32 has more than twice its digits (Figueroa 1995, https://doi.org/10.1145/221332.221334).
namespace zmlx::kernel {

/// The type that expressions of a type are computed in.
constexpr Type computed_as(Type type) { return is_half(type) ? Type::float32 : type; }

/// Copies `roots` into `to` with 16-bit types computed in float32. Rounded are variables, which may
/// stand for elements of wider arrays, and operations that need it. Variables keep their numbers.
std::vector<NodeId> without_half_types(const Tree& from, const std::vector<NodeId>& roots,
                                       Tree& to);

}  // namespace zmlx::kernel
