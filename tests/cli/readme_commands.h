// The commands that README.md shows, and what a test may do with each.
//
// A line `<!-- test: KIND -->` stands right before every fenced block of sh or console:
//   run        each command is run, in the root of the tree, and exits 0
//   needs-gpu  not run; its syntax is checked
//   setup      building or installing: not run; its syntax is checked, and that its make targets
//              exist
// In an sh block every line is a command but blank ones and comments; in a console block the lines
// that open with "$ " are, and the rest is their output. A backslash at the end joins the next
// line.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace engine::test {

enum class ReadmeKind { kRun, kNeedsGpu, kSetup };

struct ReadmeCommand {
  ReadmeKind kind;
  std::string text;
  int line;  // where it starts, from 1
};

// Throws std::runtime_error naming the line for a block without a marker, an unknown marker, a
// marker without a block, and a block without a command or an end.
std::vector<ReadmeCommand> readme_commands(std::string_view markdown);

}  // namespace engine::test
