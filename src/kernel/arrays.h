#pragma once

#include <optional>
#include <span>
#include <vector>

#include "kernel/expression.h"
#include "kernel/strided.h"
#include "mlx/array.h"
#include "mlx/utils.h"

/// MLX's arrays as the evaluator takes them.
namespace zmlx::kernel {

namespace mx = mlx::core;

/// Whether kernels read and write the type as it is.
bool is_stored(mx::Dtype type);
Storage storage_of(mx::Dtype type);
mx::Dtype dtype_of(Storage storage);

/// The input in a type that the kernel reads: as it is, or converted.
/// @throws std::invalid_argument, with `kernel` in front, if it has no such type.
mx::array readable(const mx::array& input, Type type, const std::string& kernel,
                   const mx::Stream& s);

/// What a kernel writes for a result of the type, to be converted if the two differ.
mx::Dtype written_type(mx::Dtype result);
/// The type of expressions for it.
Type stored_as(mx::Dtype written);

/// The type that `compute_dtype` stands for.
/// @throws std::invalid_argument, with `kernel` in front, if expressions have no such type.
Type compute_type(const std::optional<mx::Dtype>& compute_dtype, const std::string& kernel);

/// Memory for an output. Takes over that of `donor` if it is given. Otherwise it is aligned for
/// streaming stores, or if it is large it lies in its cache lines as the first of `beside` does, so
/// that a walk over both can keep to whole lines.
void allocate_output(mx::array& out, const mx::array* donor = nullptr,
                     std::span<const mx::array> beside = {});

/// An input that the output can take the place of; null if there is none.
const mx::array* donor_for(const mx::array& out, const std::vector<mx::array>& inputs);

}  // namespace zmlx::kernel
