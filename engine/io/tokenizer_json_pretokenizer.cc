#include "engine/io/tokenizer_json_pretokenizer.h"

#include <algorithm>
#include <utility>

#include "engine/io/regex.h"
#include "engine/io/tokenizer_json_normalizer.h"
#include "engine/io/utf8.h"
#include "kernels/core/check.h"

namespace engine {
namespace {

// GPT-2's expression, which ByteLevel applies with `use_regex`.
constexpr const char* kGpt2Pattern =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

// What becomes of the matches of a Split.
enum class Behavior { kRemoved, kIsolated, kMergedWithPrevious, kMergedWithNext, kContiguous };

struct Part {
  Span span;
  bool is_match;
};

// The whole text as matches and the gaps between them, in order.
std::vector<Part> partition(const std::vector<Span>& matches, size_t length, bool invert) {
  std::vector<Part> parts;
  parts.reserve(matches.size() + 1);
  size_t done = 0;
  for (const Span& match : matches) {
    if (match.begin > done) parts.push_back({{done, match.begin}, invert});
    parts.push_back({match, !invert});
    done = match.end;
  }
  if (done < length) parts.push_back({{done, length}, invert});
  return parts;
}

// Joins parts as `behavior` says: a part goes to the one before it in the direction of travel.
std::vector<Span> join(std::vector<Part> parts, Behavior behavior) {
  const bool backwards = behavior == Behavior::kMergedWithNext;
  if (backwards) std::reverse(parts.begin(), parts.end());
  std::vector<Span> spans;
  spans.reserve(parts.size());
  bool previous_match = false;
  for (const auto& [span, is_match] : parts) {
    bool joins = false;
    if (behavior == Behavior::kContiguous)
      joins = is_match == previous_match;
    else if (behavior != Behavior::kIsolated)
      joins = is_match && !previous_match;
    previous_match = is_match;
    if (!joins || spans.empty())
      spans.push_back(span);
    else if (backwards)
      spans.back().begin = span.begin;
    else
      spans.back().end = span.end;
  }
  if (backwards) std::reverse(spans.begin(), spans.end());
  return spans;
}

// Cuts `token` at the matches of a pattern and appends what remains.
void cut(const PreToken& token, const std::vector<Span>& matches, Behavior behavior, bool invert,
         std::vector<PreToken>& out) {
  const auto keep = [&](const Span& span) {
    if (span.begin == span.end) return;
    out.push_back(
        {token.text.substr(span.begin, span.end - span.begin), token.at_start && span.begin == 0});
  };
  std::vector<Part> parts = partition(matches, token.text.size(), invert);
  if (behavior == Behavior::kRemoved) {
    for (const Part& part : parts) {
      if (!part.is_match) keep(part.span);
    }
  } else if (behavior == Behavior::kIsolated) {
    for (const Part& part : parts) keep(part.span);
  } else {
    for (const Span& span : join(std::move(parts), behavior)) keep(span);
  }
}

class Split final : public PreTokenizerStep {
 public:
  Split(Pattern pattern, Behavior behavior, bool invert)
      : pattern_(std::move(pattern)), behavior_(behavior), invert_(invert) {}

  std::vector<PreToken> apply(std::vector<PreToken> tokens, TextArena&) const override {
    std::vector<PreToken> result;
    for (const PreToken& token : tokens) {
      cut(token, pattern_.find_all(token.text), behavior_, invert_, result);
    }
    return result;
  }

 private:
  const Pattern pattern_;
  const Behavior behavior_;
  const bool invert_;
};

// Puts a space before each token that has none. The bytes themselves are mapped by the model.
class PrefixSpace final : public PreTokenizerStep {
 public:
  std::vector<PreToken> apply(std::vector<PreToken> tokens, TextArena& arena) const override {
    for (PreToken& token : tokens) {
      if (!token.text.starts_with(' ')) token.text = arena.emplace_back(concat(' ', token.text));
    }
    return tokens;
  }
};

class Metaspace final : public PreTokenizerStep {
 public:
  Metaspace(std::string replacement, PrependScheme scheme, bool split)
      : replacement_(std::move(replacement)), scheme_(scheme), split_(split) {}

  std::vector<PreToken> apply(std::vector<PreToken> tokens, TextArena& arena) const override {
    const Pattern pattern{replacement_, nullptr};
    std::vector<PreToken> result;
    for (PreToken& token : tokens) {
      std::string text = replace_all(token.text, " ", replacement_);
      const bool prepend =
          scheme_ == PrependScheme::kAlways || (scheme_ == PrependScheme::kFirst && token.at_start);
      if (prepend && !text.starts_with(replacement_)) text.insert(0, replacement_);
      token.text = arena.emplace_back(std::move(text));
      if (split_) {
        cut(token, pattern.find_all(token.text), Behavior::kMergedWithNext, false, result);
      } else {
        result.push_back(token);
      }
    }
    return result;
  }

 private:
  const std::string replacement_;
  const PrependScheme scheme_;
  const bool split_;
};

Behavior read_behavior(const Json& component, const std::string& where) {
  const std::string name = json_string(component, "behavior", where);
  if (name == "Removed") return Behavior::kRemoved;
  if (name == "Isolated") return Behavior::kIsolated;
  if (name == "MergedWithPrevious") return Behavior::kMergedWithPrevious;
  if (name == "MergedWithNext") return Behavior::kMergedWithNext;
  if (name == "Contiguous") return Behavior::kContiguous;
  fail(ErrorKind::kUnsupported, where, ": behavior ", quote(name), " is not supported");
}

Pattern regex_pattern(const char* pattern, const std::string& where) {
  return {{}, std::make_unique<Regex>(pattern, where)};
}

}  // namespace

PreTokenizer::PreTokenizer(const TokenizerFile& file) {
  const Json* component = json_optional(file.root, "pre_tokenizer");
  if (component == nullptr) return;
  read_steps(*component, file.name + ": pre_tokenizer");
}

void PreTokenizer::read_steps(const Json& component, const std::string& where) {
  const std::string type = json_string(component, "type", where);
  ENGINE_CHECK(!byte_level_, ErrorKind::kUnsupported, where, ": ", quote(type),
               " after ByteLevel is not supported");
  if (type == "Sequence") {
    size_t index = 0;
    for (const Json& part : json_array(component, "pretokenizers", where)) {
      read_steps(part, concat(where, '[', index++, ']'));
    }
  } else if (type == "Split") {
    steps_.push_back(std::make_unique<Split>(read_pattern(component, where),
                                             read_behavior(component, where),
                                             json_bool(component, "invert", false, where)));
  } else if (type == "ByteLevel") {
    byte_level_ = true;
    if (json_bool(component, "add_prefix_space", true, where)) {
      steps_.push_back(std::make_unique<PrefixSpace>());
    }
    if (json_bool(component, "use_regex", true, where)) {
      steps_.push_back(
          std::make_unique<Split>(regex_pattern(kGpt2Pattern, where), Behavior::kIsolated, false));
    }
  } else if (type == "Metaspace") {
    steps_.push_back(std::make_unique<Metaspace>(read_replacement(component, where),
                                                 read_prepend_scheme(component, where),
                                                 json_bool(component, "split", true, where)));
  } else if (type == "Digits") {
    const bool each = json_bool(component, "individual_digits", false, where);
    steps_.push_back(std::make_unique<Split>(regex_pattern(each ? R"(\p{N})" : R"(\p{N}+)", where),
                                             Behavior::kIsolated, false));
  } else {
    fail(ErrorKind::kUnsupported, where, ": pre-tokenizer ", quote(type), " is not supported");
  }
}

std::vector<PreToken> PreTokenizer::split(std::string_view text, bool at_start,
                                          TextArena& arena) const {
  std::vector<PreToken> tokens;
  if (!text.empty()) tokens.push_back({text, at_start});
  for (const auto& step : steps_) tokens = step->apply(std::move(tokens), arena);
  return tokens;
}

PrependScheme read_prepend_scheme(const Json& component, const std::string& where) {
  const bool prefix = json_bool(component, "add_prefix_space", true, where);
  if (component.find("prepend_scheme") == nullptr)
    return prefix ? PrependScheme::kAlways : PrependScheme::kNever;
  const std::string name = json_string(component, "prepend_scheme", where);
  ENGINE_CHECK(prefix || name == "never", ErrorKind::kModel, where,
               ": add_prefix_space is false but prepend_scheme is ", quote(name));
  if (name == "first") return PrependScheme::kFirst;
  if (name == "always") return PrependScheme::kAlways;
  if (name == "never") return PrependScheme::kNever;
  fail(ErrorKind::kUnsupported, where, ": prepend_scheme ", quote(name), " is not supported");
}

std::string read_replacement(const Json& component, const std::string& where) {
  std::string text = json_string(component, "replacement", where);
  ENGINE_CHECK(!text.empty() && read_utf8(text).length == text.size(), ErrorKind::kModel, where,
               ": replacement ", quote(text), " is not one character");
  return text;
}

}  // namespace engine
