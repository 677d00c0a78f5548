#include "tests/support/paths.h"

#include <cstdlib>

namespace engine::test {

std::filesystem::path source_dir() {
  const char* root = std::getenv("ENGINE_SOURCE_DIR");
  return root != nullptr && *root != '\0' ? root : ENGINE_SOURCE_DIR;
}

std::filesystem::path program(const char* name) {
  const char* root = std::getenv("ENGINE_BIN_DIR");
  return std::filesystem::path(root != nullptr && *root != '\0' ? root : ENGINE_BIN_DIR) / name;
}

}  // namespace engine::test
