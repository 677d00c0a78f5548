// Where a test finds the source tree and the built programs. Both are compiled into paths.cc alone,
// so that the other objects of the tests don't depend on the build folder; the environment
// overrides them when the programs were built elsewhere.
#pragma once

#include <filesystem>

namespace engine::test {

// The root of the source tree: $ENGINE_SOURCE_DIR, else where this was built from.
std::filesystem::path source_dir();

// The path of a built program, e.g. "engine_generate": in $ENGINE_BIN_DIR, else where it was built.
std::filesystem::path program(const char* name);

}  // namespace engine::test
