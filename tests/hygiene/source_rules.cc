#include "tests/hygiene/source_rules.h"

#include <algorithm>
#include <cctype>
#include <cstddef>

namespace engine::test {
namespace {

constexpr int kMaxLines = 600;
constexpr std::size_t kMaxColumns = 100;

bool starts_with_any(std::string_view text, std::initializer_list<std::string_view> prefixes) {
  return std::any_of(prefixes.begin(), prefixes.end(),
                     [&](std::string_view prefix) { return text.starts_with(prefix); });
}

// A .inc.h is a text to be included several times, so it has no guard.
bool is_header(std::string_view path) {
  return (path.ends_with(".h") && !path.ends_with(".inc.h")) || path.ends_with(".cuh");
}

bool is_ours(std::string_view include) {
  return starts_with_any(include, {"quant/", "kernels/", "engine/", "bench/", "tests/"});
}

bool is_cuda_header(std::string_view include) {
  return starts_with_any(
      include, {"cuda", "cublas", "cub/", "nvtx3/", "mma.h", "cooperative_groups", "thrust/",
                "device_launch_parameters", "vector_types.h"});
}

// What is wrong with `path` including "include" by quotes, or nothing.
std::string wrong_layer(std::string_view path, std::string_view include) {
  if (!is_ours(include)) return "is not relative to the root of the tree";
  if (path.starts_with("quant/") && !include.starts_with("quant/")) return "quant is a leaf";
  if (path.starts_with("kernels/") && starts_with_any(include, {"engine/", "bench/", "tests/"})) {
    return "kernels stand below engine, bench and tests";
  }
  if (path.starts_with("engine/") && starts_with_any(include, {"bench/", "tests/"})) {
    return "engine stands below bench and tests";
  }
  if (path.starts_with("bench/") && include.starts_with("tests/")) return "bench sees no tests";
  if ((path.starts_with("kernels/cpu/") && include.starts_with("kernels/cuda/")) ||
      (path.starts_with("kernels/cuda/") && include.starts_with("kernels/cpu/"))) {
    return "kernels/cpu and kernels/cuda never see each other";
  }
  if (path.starts_with("engine/model/") && include != "kernels/ops.h" &&
      !starts_with_any(include, {"kernels/core/", "engine/model/", "engine/io/", "quant/"})) {
    return "a model sees kernels/ops.h, kernels/core, engine/model and engine/io only";
  }
  if (path.starts_with("engine/") &&
      starts_with_any(include,
                      {"kernels/cpu/", "kernels/cuda/", "kernels/reference/", "kernels/cases/"})) {
    return "engine reaches kernels through the seam only";
  }
  // kernels/backend.cc chooses among the backends, by their one public header each.
  const bool chooses = path == "kernels/backend.cc" && include.ends_with("_backend.h");
  if (path.starts_with("kernels/") && !chooses &&
      ((include.starts_with("kernels/cpu/") && !path.starts_with("kernels/cpu/")) ||
       (include.starts_with("kernels/cuda/") && !path.starts_with("kernels/cuda/")))) {
    return "only kernels/backend.cc sees a backend's folder from outside";
  }
  if (include.ends_with("_device.cuh") && !path.ends_with("_device.cuh") &&
      !path.starts_with("kernels/cuda/")) {
    return "device code belongs under kernels/cuda";
  }
  return "";
}

// What is wrong with `path` including <include>, or nothing.
std::string wrong_system(std::string_view path, std::string_view include) {
  if (is_ours(include)) return "our own headers are included with quotes";
  const bool device_code = path.starts_with("kernels/cuda/") || path.ends_with("_device.cuh");
  if (is_cuda_header(include) && !device_code) {
    return "CUDA headers appear only under kernels/cuda and in *_device.cuh";
  }
  if (include == "cub/cub.cuh") return "the umbrella header compiles too slowly: name the parts";
  // A standard header is a plain word; every other library's has a directory or a suffix. C headers
  // have a <c...> twin, and vendor headers of instruction sets have no place in a leaf.
  if (path.starts_with("quant/") && !device_code &&
      !std::all_of(include.begin(), include.end(),
                   [](unsigned char c) { return std::islower(c) != 0 || c == '_'; })) {
    return "quant sees the standard library only";
  }
  return "";
}

bool is_identifier_part(char c) {
  return std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '_';
}

// True where `word` stands in `line` as a whole identifier.
bool has_word(std::string_view line, std::string_view word) {
  for (std::size_t at = line.find(word); at != std::string_view::npos;
       at = line.find(word, at + 1)) {
    const std::size_t end = at + word.size();
    if ((at == 0 || !is_identifier_part(line[at - 1])) &&
        (end == line.size() || !is_identifier_part(line[end]))) {
      return true;
    }
  }
  return false;
}

std::string_view trimmed(std::string_view line) {
  const std::size_t first = line.find_first_not_of(" \t");
  return first == std::string_view::npos ? std::string_view() : line.substr(first);
}

// The problems of one line, as sentences.
std::vector<std::string> line_problems(std::string_view path, std::string_view line) {
  std::vector<std::string> found;
  if (line.find('\t') != std::string_view::npos) found.push_back("holds a tab");
  if (!line.empty() && (line.back() == ' ' || line.back() == '\r')) {
    found.push_back("ends in white space");
  }
  // Bytes that continue a UTF-8 character take no column.
  const auto columns = std::count_if(line.begin(), line.end(), [](char c) {
    return (static_cast<unsigned char>(c) & 0xC0U) != 0x80U;
  });
  if (static_cast<std::size_t>(columns) > kMaxColumns) found.push_back("is over 100 columns");

  std::string_view text = trimmed(line);
  if (!text.starts_with('#')) return found;
  text = trimmed(text.substr(1));
  if (starts_with_any(text, {"if", "elif", "ifdef", "ifndef", "define", "undef"}) &&
      has_word(text, "ENGINE_CUDA") && path != "kernels/backend.cc") {
    found.push_back("ENGINE_CUDA is read in kernels/backend.cc only");
  }
  if (!text.starts_with("include")) return found;
  text = trimmed(text.substr(std::string_view("include").size()));
  const std::size_t end = text.find_first_of("\">", 1);
  if (text.size() < 2 || end == std::string_view::npos) {
    found.push_back("includes something that is neither \"file\" nor <file>");
    return found;
  }
  const std::string include(text.substr(1, end - 1));
  const std::string wrong =
      text.front() == '"' ? wrong_layer(path, include) : wrong_system(path, include);
  if (!wrong.empty()) found.push_back("includes " + include + ": " + wrong);
  return found;
}

}  // namespace

std::vector<std::string> violations(const SourceFile& file) {
  std::vector<std::string> found;
  const auto report = [&](int line, const std::string& problem) {
    found.push_back(file.path + ":" + std::to_string(line) + ": " + problem);
  };
  int number = 0;
  bool has_pragma_once = false;
  std::string_view rest = file.text;
  while (!rest.empty()) {
    const std::size_t end = std::min(rest.find('\n'), rest.size());
    const std::string_view line = rest.substr(0, end);
    rest.remove_prefix(std::min(end + 1, rest.size()));
    ++number;
    has_pragma_once = has_pragma_once || line == "#pragma once";
    for (const std::string& problem : line_problems(file.path, line)) report(number, problem);
  }
  if (number > kMaxLines) {
    report(number, "is a file of more than " + std::to_string(kMaxLines) + " lines");
  }
  if (is_header(file.path) && !has_pragma_once) report(1, "is a header without #pragma once");
  if (!file.text.empty() && file.text.back() != '\n') report(number, "ends without a newline");
  return found;
}

std::optional<int> body_lines(std::string_view text, std::string_view function) {
  const std::string head = std::string(function) + "(";
  for (std::size_t at = text.find(head); at != std::string_view::npos;
       at = text.find(head, at + 1)) {
    // A definition stands on a line of its own that opens with the type returned; a call is
    // indented.
    const std::size_t line = at == 0 ? 0 : text.rfind('\n', at - 1) + 1;
    if (line == at || !is_identifier_part(text[line])) continue;
    if (is_identifier_part(text[at - 1])) continue;
    const std::size_t open = at + function.size();
    const std::size_t brace = text.find_first_of(";{", open);
    if (brace == std::string_view::npos || text[brace] == ';') continue;
    int depth = 0;
    for (std::size_t i = brace; i < text.size(); ++i) {
      depth += text[i] == '{' ? 1 : text[i] == '}' ? -1 : 0;
      if (depth > 0) continue;
      const std::string_view body = text.substr(brace, i - brace);
      return std::max(0, static_cast<int>(std::count(body.begin(), body.end(), '\n')) - 1);
    }
  }
  return std::nullopt;
}

}  // namespace engine::test
