#pragma once

#include <optional>
#include <string>

/// Choices that outlive the process: a file for each key.
namespace zmlx::autotune_cache {

/// The choice of a key, if there is one below `candidates`.
std::optional<size_t> load(const std::string& key, size_t candidates);
/// Remembers a choice; that it cannot be written is no error.
void store(const std::string& key, size_t choice, size_t candidates);

/// Folder of the files.
std::string directory();
/// File of a key.
std::string path_of(const std::string& key);
void clear();

}  // namespace zmlx::autotune_cache
