// The optional reference data that ENGINE_TESTDATA points at. Tests that need it are skipped, and
// say so, where the variable is unset.
#pragma once

#include <doctest/doctest.h>

#include <cstdlib>
#include <filesystem>
#include <optional>

namespace engine::test {

// The path of `relative` below $ENGINE_TESTDATA, or nothing (with a message) where it is unset.
inline std::optional<std::filesystem::path> testdata(const char* relative) {
  const char* root = std::getenv("ENGINE_TESTDATA");
  if (root == nullptr || *root == '\0') {
    MESSAGE("skipped: ENGINE_TESTDATA is not set");
    return std::nullopt;
  }
  std::filesystem::path path = std::filesystem::path(root) / relative;
  REQUIRE_MESSAGE(std::filesystem::exists(path), path.string(), " does not exist");
  return path;
}

}  // namespace engine::test
