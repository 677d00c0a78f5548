// What a call came to: success, or the kind and message of its Error. Any other exception passes
// through and fails the test.
#pragma once

#include <optional>
#include <ostream>
#include <string>

#include "kernels/core/check.h"

namespace engine {

inline std::ostream& operator<<(std::ostream& out, ErrorKind kind) {
  constexpr const char* kNames[] = {"usage",  "model", "unsupported", "memory",
                                    "device", "io",    "internal"};
  return out << kNames[static_cast<int>(kind)];
}

}  // namespace engine

namespace engine::test {

struct Outcome {
  std::optional<ErrorKind> error;
  std::string message;

  bool ok() const { return !error.has_value(); }
  bool is(ErrorKind kind) const { return error == kind; }
  bool says(const std::string& part) const { return message.find(part) != std::string::npos; }
};

template <typename Call>
Outcome outcome_of(Call&& call) {
  try {
    call();
    return {};
  } catch (const Error& error) {
    return {error.kind(), error.what()};
  }
}

}  // namespace engine::test
