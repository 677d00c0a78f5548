#include "tests/cli/readme_commands.h"

#include <optional>
#include <sstream>
#include <stdexcept>

namespace engine::test {
namespace {

constexpr std::string_view kMarkerStart = "<!-- test: ";
constexpr std::string_view kMarkerEnd = " -->";
constexpr std::string_view kPrompt = "$ ";

[[noreturn]] void refuse(int line, const std::string& problem) {
  throw std::runtime_error("README.md:" + std::to_string(line) + ": " + problem);
}

ReadmeKind parse_marker(std::string_view line, int number) {
  if (!line.ends_with(kMarkerEnd)) refuse(number, "a marker ends in \" -->\"");
  line.remove_prefix(kMarkerStart.size());
  line.remove_suffix(kMarkerEnd.size());
  if (line == "run") return ReadmeKind::kRun;
  if (line == "needs-gpu") return ReadmeKind::kNeedsGpu;
  if (line == "setup") return ReadmeKind::kSetup;
  refuse(number, "the marker is \"" + std::string(line) + "\"; expected run, needs-gpu or setup");
}

// What `line` says of a command, or nothing for a comment, a blank line or output.
std::optional<std::string> command_text(const std::string& line, bool console) {
  if (console) {
    if (!line.starts_with(kPrompt)) return std::nullopt;
    return line.substr(kPrompt.size());
  }
  const std::size_t first = line.find_first_not_of(' ');
  if (first == std::string::npos || line[first] == '#') return std::nullopt;
  return line;
}

}  // namespace

std::vector<ReadmeCommand> readme_commands(std::string_view markdown) {
  std::vector<ReadmeCommand> commands;
  std::istringstream stream{std::string(markdown)};
  std::string line;
  int number = 0;
  const auto next = [&] {
    ++number;
    return static_cast<bool>(std::getline(stream, line));
  };
  bool marked = false;  // by the line before, with `kind`
  ReadmeKind kind = ReadmeKind::kRun;
  while (next()) {
    if (line.starts_with(kMarkerStart)) {
      if (marked) refuse(number, "two markers in a row");
      kind = parse_marker(line, number);
      marked = true;
      continue;
    }
    const bool console = line == "```console";
    const bool of_shell = console || line == "```sh" || line == "```bash" || line == "```shell";
    if (of_shell != marked) {
      refuse(number, of_shell ? "a block of commands has no marker <!-- test: ... --> before it"
                              : "no block of commands follows the marker");
    }
    if (!line.starts_with("```")) continue;
    const int opened = number;
    const std::size_t before = commands.size();
    bool closed = false;
    while (!closed && next()) {
      closed = line == "```";
      if (closed || !of_shell) continue;
      std::optional<std::string> text = command_text(line, console);
      if (!text) continue;
      const int start = number;
      while (text->ends_with('\\') && next()) {
        text->pop_back();
        *text += line;
      }
      commands.push_back({kind, *text, start});
    }
    if (!closed) refuse(opened, "the block has no end");
    if (of_shell && commands.size() == before) refuse(opened, "the block holds no command");
    marked = false;
  }
  if (marked) refuse(number, "no block of commands follows the marker");
  return commands;
}

}  // namespace engine::test
