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

/// A line that includes `text`, from a file of this process that is removed when it ends; `text`
/// itself if no file can be written.
///
/// MLX hashes a kernel's source at every launch, which for a whole source (some 25 KB) takes longer
/// than the launch.
std::string cuda_include(const std::string& name, const std::string& text);

}  // namespace zmlx::fast
