#pragma once

#include <cstddef>
#include <string>

/// The kernels' sources, embedded when the library was built.
namespace zmlx::fast {

struct SourceFile {
  const char* name;
  const char* text;
};

/// The files of one backend.
struct SourceFolder {
  const char* name;
  const SourceFile* files;
  size_t count;
};
extern const SourceFolder kCudaSources, kMetalSources;

/// A file as it is.
/// @throws std::logic_error if there is no such file.
const char* source_text(const SourceFolder& folder, const std::string& name);

/// A file with what it includes from its folder in its place, each file once, and without comments
/// and indentation.
/// @throws std::logic_error if there is no such file.
std::string kernel_source(const SourceFolder& folder, const std::string& name);

}  // namespace zmlx::fast
