#pragma once

#include <cstdint>

#include "kernel/emit.h"
#include "kernel/gpu_launch.h"
#include "kernel/strided.h"

/// How a formula is spread over a GPU's threads. Pure arithmetic: no framework and no device.
namespace zmlx::kernel {

/// Elements of a vector, at most. Metal's vector types have four.
constexpr int kWidestOnCuda = 8, kWidestOnMetal = 4;

/// Sets width, vectors and threads of a form whose storages are set.
/// @param size  elements.
/// @param last_axis  elements that vectors must divide, or 0.
/// @param widest  elements of a vector, at most; a thread moves up to 16 bytes at once.
void choose_form(const ElementwiseFormula& formula, int64_t size, int64_t last_axis, int widest,
                 GpuLaunch launch, ElementwiseForm& form);

/// 32-bit registers for what a thread keeps of its part of a row, for each element: at any step,
/// inputs that it or a later one reads, and expressions that are kept.
double registers_of_element(const RowFormula& formula, const std::vector<Storage>& inputs);

/// Sets all but the storages. Other parameters as above.
/// @param aligned  whether memory is aligned for vectors.
/// @param registers  see `registers_of_element`.
/// @param threadgroup  threads of a group that the user asks for, or 0.
void choose_form(double registers, int64_t length, bool aligned, int widest, int threadgroup,
                 GpuLaunch launch, RowForm& form);

}  // namespace zmlx::kernel
