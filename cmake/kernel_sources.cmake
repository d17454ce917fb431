# Embeds kernel sources as text: MLX compiles kernels at run time, so neither building nor installing
# needs CUDA or Xcode.

# Appends the files of src/FOLDER that end in EXTENSION to VARIABLE, as {name, text} initialisers.
function(zmlx_embed folder extension variable)
  file(GLOB paths CONFIGURE_DEPENDS "${PROJECT_SOURCE_DIR}/src/${folder}/*.${extension}")
  set(entries "")
  foreach(path IN LISTS paths)
    get_filename_component(name "${path}" NAME)
    file(READ "${path}" text)
    # Compilers limit the length of one literal.
    string(REPLACE "\n}\n" "\n}\n)zmlx\" R\"zmlx(" text "${text}")
    string(APPEND entries "    {\"${name}\", R\"zmlx(${text})zmlx\"},\n")
    set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS "${path}")
  endforeach()
  set(${variable} "${entries}" PARENT_SCOPE)
endfunction()

zmlx_embed(cuda cuh ZMLX_CUDA_FILES)
zmlx_embed(metal h ZMLX_METAL_FILES)
file(CONFIGURE OUTPUT "${PROJECT_BINARY_DIR}/generated/kernel_sources.cpp" CONTENT [[
#include "fast/kernel_source.h"

#include <iterator>

namespace zmlx::fast {

namespace {

const SourceFile kCudaFiles[] = {
@ZMLX_CUDA_FILES@};
const SourceFile kMetalFiles[] = {
@ZMLX_METAL_FILES@};

}  // namespace

const SourceFolder kCudaSources = {"src/cuda", kCudaFiles, std::size(kCudaFiles)};
const SourceFolder kMetalSources = {"src/metal", kMetalFiles, std::size(kMetalFiles)};

}  // namespace zmlx::fast
]] @ONLY)
target_sources(zmlx PRIVATE "${PROJECT_BINARY_DIR}/generated/kernel_sources.cpp")
