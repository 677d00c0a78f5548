// The rules of docs/architecture.md that a text search can hold: who may include whom, where CUDA
// may show, and the size and shape of a file. Pure functions of a path and its text.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace engine::test {

struct SourceFile {
  std::string path;  // relative to the root of the tree, with '/'
  std::string text;
};

// One sentence per violation, each opening with "path:line: ".
std::vector<std::string> violations(const SourceFile& file);

// Lines between the braces of the first definition of `function` in `text` (blank ones and comments
// included), or nothing when `text` defines no such function.
std::optional<int> body_lines(std::string_view text, std::string_view function);

}  // namespace engine::test
