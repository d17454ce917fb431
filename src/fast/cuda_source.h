#pragma once

#include <cstddef>
#include <string>

namespace zmlx::fast {

/// A file of src/cuda, embedded when the library was built.
struct CudaFile {
  const char* name;
  const char* text;
};
extern const CudaFile kCudaFiles[];
extern const size_t kCudaFileCount;

/// A file of src/cuda with what it includes from there in its place, each file once, and without
/// comments and indentation.
/// @throws std::logic_error if there is no such file.
std::string cuda_source(const std::string& name);

}  // namespace zmlx::fast
