// engine_generate as the tests of its command line run it.
#pragma once

#include <doctest/doctest.h>

#include <filesystem>
#include <initializer_list>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "tests/support/paths.h"
#include "tests/support/process.h"

namespace engine::test {

#if defined(__SANITIZE_ADDRESS__)
inline constexpr bool kSanitized = true;
#else
inline constexpr bool kSanitized = false;
#endif

// engine_generate with exactly these arguments.
inline Command bare_command(std::vector<std::string> arguments) {
  Command command;
  command.program = program("engine_generate");
  command.arguments = std::move(arguments);
  return command;
}

// engine_generate MODEL ARGUMENTS --device cpu.
inline Command generate_command(const std::filesystem::path& model,
                                const std::vector<std::string>& arguments) {
  std::vector<std::string> all = {model.string()};
  all.insert(all.end(), arguments.begin(), arguments.end());
  all.insert(all.end(), {"--device", "cpu"});
  return bare_command(std::move(all));
}

inline Result generate(const std::filesystem::path& model,
                       const std::vector<std::string>& arguments) {
  return run(generate_command(model, arguments));
}

// The object that a run with --json prints.
inline nlohmann::json generate_json(const std::filesystem::path& model,
                                    std::vector<std::string> arguments) {
  arguments.push_back("--json");
  const Result result = generate(model, arguments);
  REQUIRE_MESSAGE(result.exit_code == 0, result.describe());
  return nlohmann::json::parse(result.out);
}

// Every way a run may end, by CLI.md, but for signals.
inline bool is_documented(int exit_code) { return exit_code >= 0 && exit_code <= 6; }

// The run ended with `exit_code` and one error line that says all of `parts`.
inline void check_refused(const Result& result, int exit_code,
                          std::initializer_list<std::string> parts) {
  CHECK_MESSAGE(result.exit_code == exit_code, result.describe());
  CHECK_MESSAGE(result.error_lines() == 1, result.describe());
  for (const std::string& part : parts) {
    const std::size_t line = result.err.find("error:");
    const bool says = line != std::string::npos && result.err.find(part, line) != std::string::npos;
    CHECK_MESSAGE(says, "expected \"", part, "\": ", result.describe());
  }
}

// The same, with nothing on stdout: what a run refuses before it begins.
inline void check_refused_at_once(const Result& result, int exit_code,
                                  std::initializer_list<std::string> parts) {
  check_refused(result, exit_code, parts);
  CHECK_MESSAGE(result.out.empty(), result.describe());
}

// "1,2,3".
template <typename Ids>
std::string id_list(const Ids& ids, char separator = ',') {
  std::string text;
  for (const auto id : ids) {
    if (!text.empty()) text += separator;
    text += std::to_string(id);
  }
  return text;
}

}  // namespace engine::test
