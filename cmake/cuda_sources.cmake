# Embeds src/cuda/*.cuh as text: MLX compiles kernels at run time, so neither building nor installing
# needs CUDA.

file(GLOB ZMLX_CUDA_SOURCES CONFIGURE_DEPENDS "${PROJECT_SOURCE_DIR}/src/cuda/*.cuh")
set(ZMLX_CUDA_TEXT "")
foreach(path IN LISTS ZMLX_CUDA_SOURCES)
  get_filename_component(name "${path}" NAME)
  file(READ "${path}" text)
  # Compilers limit the length of one literal.
  string(REPLACE "\n}\n" "\n}\n)zmlx\" R\"zmlx(" text "${text}")
  string(APPEND ZMLX_CUDA_TEXT "    {\"${name}\", R\"zmlx(${text})zmlx\"},\n")
  set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS "${path}")
endforeach()
file(CONFIGURE OUTPUT "${PROJECT_BINARY_DIR}/generated/cuda_sources.cpp" CONTENT [[
#include "fast/cuda_source.h"

namespace zmlx::fast {

const CudaFile kCudaFiles[] = {
@ZMLX_CUDA_TEXT@};
const size_t kCudaFileCount = sizeof(kCudaFiles) / sizeof(kCudaFiles[0]);

}  // namespace zmlx::fast
]] @ONLY)
target_sources(zmlx PRIVATE "${PROJECT_BINARY_DIR}/generated/cuda_sources.cpp")
