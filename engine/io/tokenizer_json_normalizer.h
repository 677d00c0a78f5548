// Normalisers of a tokenizer.json: Sequence, Prepend, Replace, Strip.
//
// The Unicode forms and the other kinds are refused by name. Immutable; thread-safe.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "engine/io/regex.h"
#include "engine/io/tokenizer_json_file.h"

namespace engine {

// One step: the whole stretch of text in, the whole stretch out.
class NormalizerStep {
 public:
  virtual ~NormalizerStep() = default;
  virtual std::string apply(std::string text) const = 0;
};

class Normalizer {
 public:
  // Reads `normalizer` of the document; null means that the text stays as it is.
  explicit Normalizer(const TokenizerFile& file);

  bool empty() const { return steps_.empty(); }
  std::string apply(std::string text) const;

 private:
  std::vector<std::unique_ptr<const NormalizerStep>> steps_;
};

// `text` with each occurrence of `from` (not empty) replaced, left to right.
std::string replace_all(std::string_view text, std::string_view from, std::string_view to);

// The `pattern` member of a component: a literal text, or a regular expression.
struct Pattern {
  std::string literal;  // not empty where `regex` is null
  std::unique_ptr<Regex> regex;

  // All matches in `text`, leftmost first, not overlapping.
  std::vector<Span> find_all(std::string_view text) const;
};
Pattern read_pattern(const Json& component, const std::string& where);

}  // namespace engine
