// Where a test finds the source tree and the built programs. Both are compiled in; the environment
// overrides them when the programs were built elsewhere.
#pragma once

#include <cstdlib>
#include <filesystem>

namespace engine::test {

// The root of the source tree: $ENGINE_SOURCE_DIR, else where this was built from.
inline std::filesystem::path source_dir() {
  const char* root = std::getenv("ENGINE_SOURCE_DIR");
  return root != nullptr && *root != '\0' ? root : ENGINE_SOURCE_DIR;
}

// The path of a built program, e.g. "engine_generate": in $ENGINE_BIN_DIR, else where it was built.
inline std::filesystem::path program(const char* name) {
  const char* root = std::getenv("ENGINE_BIN_DIR");
  return std::filesystem::path(root != nullptr && *root != '\0' ? root : ENGINE_BIN_DIR) / name;
}

}  // namespace engine::test
