// What this binary was built from and for. The values are compiled in; the commit is read from git
// whenever the project is built, not only when it is configured. Safe from any thread.
#pragma once

#include <string>

namespace engine {

struct BuildInfo {
  const char* version;             // "0.1.0"
  const char* commit;              // short hash, "-dirty" behind it when the tree has changes;
                                   // "unknown" outside a git checkout
  const char* cuda_version;        // toolkit, "13.0.88"; "" when built without CUDA
  const char* cuda_architectures;  // "90a", "80, 86, 89, 90a; PTX 90"; "" when built without CUDA
  const char* build_type;          // CMake's: "Release", "Debug", ...
  bool sanitized;                  // built with AddressSanitizer and UndefinedBehaviorSanitizer
};

const BuildInfo& build_info();

// The facts above as lines of "name: value" for --version, without a newline at the end; whoever
// knows the hardware adds its own lines.
std::string version_text();

}  // namespace engine
