# Embeds what formulas of kernels call on Metal. (CUDA's is among src/cuda/*.cuh.)

set(ZMLX_FORMULA_FILE "${PROJECT_SOURCE_DIR}/src/metal/kernel_formula.h")
file(READ "${ZMLX_FORMULA_FILE}" ZMLX_FORMULA_TEXT)
set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS "${ZMLX_FORMULA_FILE}")
file(CONFIGURE OUTPUT "${PROJECT_BINARY_DIR}/generated/metal_formula.cpp" CONTENT [[
#include "kernel/emit.h"

namespace zmlx::kernel {

const char* const kMetalFormula = R"zmlx(@ZMLX_FORMULA_TEXT@)zmlx";

}  // namespace zmlx::kernel
]] @ONLY)
target_sources(zmlx PRIVATE "${PROJECT_BINARY_DIR}/generated/metal_formula.cpp")
