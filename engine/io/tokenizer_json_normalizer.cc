#include "engine/io/tokenizer_json_normalizer.h"

#include <utility>

#include "engine/io/utf8.h"
#include "kernels/core/check.h"

namespace engine {
namespace {

using Steps = std::vector<std::unique_ptr<const NormalizerStep>>;

class Prepend final : public NormalizerStep {
 public:
  explicit Prepend(std::string prefix) : prefix_(std::move(prefix)) {}
  std::string apply(std::string text) const override {
    return text.empty() ? text : prefix_ + text;
  }

 private:
  const std::string prefix_;
};

class Replace final : public NormalizerStep {
 public:
  Replace(Pattern pattern, std::string content)
      : pattern_(std::move(pattern)), content_(std::move(content)) {}

  std::string apply(std::string text) const override {
    if (!pattern_.regex) return replace_all(text, pattern_.literal, content_);
    std::string result;
    size_t done = 0;
    for (const Span& match : pattern_.find_all(text)) {
      result.append(text, done, match.begin - done).append(content_);
      done = match.end;
    }
    return result.append(text, done);
  }

 private:
  const Pattern pattern_;
  const std::string content_;
};

// White space off either end.
class Strip final : public NormalizerStep {
 public:
  Strip(bool left, bool right) : left_(left), right_(right) {}

  std::string apply(std::string text) const override {
    const auto space = [](std::string_view scalar) {
      const Utf8Scalar c = read_utf8(scalar);
      return c.valid && is_white_space(c.value);
    };
    std::string_view kept = text;
    while (left_ && !kept.empty() && space(kept)) kept.remove_prefix(read_utf8(kept).length);
    while (right_ && !kept.empty() && space(kept.substr(last_scalar_start(kept)))) {
      kept = kept.substr(0, last_scalar_start(kept));
    }
    return std::string(kept);
  }

 private:
  const bool left_, right_;
};

void read_steps(const Json& component, const std::string& where, Steps& steps) {
  const std::string type = json_string(component, "type", where);
  if (type == "Sequence") {
    size_t index = 0;
    for (const Json& part : json_array(component, "normalizers", where)) {
      read_steps(part, concat(where, '[', index++, ']'), steps);
    }
  } else if (type == "Prepend") {
    steps.push_back(std::make_unique<Prepend>(json_string(component, "prepend", where)));
  } else if (type == "Replace") {
    steps.push_back(std::make_unique<Replace>(read_pattern(component, where),
                                              json_string(component, "content", where)));
  } else if (type == "Strip") {
    steps.push_back(std::make_unique<Strip>(json_bool(component, "strip_left", true, where),
                                            json_bool(component, "strip_right", true, where)));
  } else {
    fail(ErrorKind::kUnsupported, where, ": normalizer ", quote(type), " is not supported");
  }
}

}  // namespace

Normalizer::Normalizer(const TokenizerFile& file) {
  const Json* component = json_optional(file.root, "normalizer");
  if (component == nullptr) return;
  read_steps(*component, file.name + ": normalizer", steps_);
}

std::string Normalizer::apply(std::string text) const {
  for (const auto& step : steps_) text = step->apply(std::move(text));
  return text;
}

std::string replace_all(std::string_view text, std::string_view from, std::string_view to) {
  std::string result;
  result.reserve(text.size() + text.size() / 4);
  size_t at = 0;
  for (size_t hit; (hit = text.find(from, at)) != std::string_view::npos; at = hit + from.size()) {
    result.append(text.substr(at, hit - at)).append(to);
  }
  return result.append(text.substr(at));
}

std::vector<Span> Pattern::find_all(std::string_view text) const {
  if (regex) return regex->find_all(text);
  std::vector<Span> matches;
  size_t at = 0;
  for (size_t hit; (hit = text.find(literal, at)) != std::string_view::npos;) {
    at = hit + literal.size();
    matches.push_back({hit, at});
  }
  return matches;
}

Pattern read_pattern(const Json& component, const std::string& where) {
  const Json& pattern = json_member(component, "pattern", where);
  const std::string inside = where + ": pattern";
  ENGINE_CHECK(pattern.is_object() && pattern.members().size() == 1, ErrorKind::kModel, inside,
               ": expected {\"String\": ...} or {\"Regex\": ...}, found ", pattern.describe());
  Pattern result;
  if (pattern.find("Regex") != nullptr) {
    result.regex = std::make_unique<Regex>(json_string(pattern, "Regex", inside), inside);
  } else {
    result.literal = json_string(pattern, "String", inside);
    ENGINE_CHECK(!result.literal.empty(), ErrorKind::kModel, inside, ": the text is empty");
  }
  return result;
}

}  // namespace engine
