#include "engine/io/tokenizer_json_decoder.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "engine/io/byte_level.h"
#include "engine/io/tokenizer_json_normalizer.h"
#include "engine/io/tokenizer_json_pretokenizer.h"
#include "engine/io/utf8.h"
#include "kernels/core/check.h"

namespace engine {
namespace {

// The byte of a token of the form <0xHH>.
std::optional<char> fallback_byte(const std::string& token) {
  if (token.size() != 6 || !token.starts_with("<0x") || token[5] != '>') return std::nullopt;
  unsigned value = 0;
  for (const char c : {token[3], token[4]}) {
    const char lower = static_cast<char>(c | 0x20);
    const bool digit = c >= '0' && c <= '9';
    if (!digit && (lower < 'a' || lower > 'f')) return std::nullopt;
    value = value * 16 + static_cast<unsigned>(digit ? c - '0' : lower - 'a' + 10);
  }
  return static_cast<char>(value);
}

// Replaces in each token by itself, or in one long text that arrives in parts.
class ReplaceStage final : public DecodeStage {
 public:
  ReplaceStage(std::string from, std::string to, bool fused)
      : from_(std::move(from)), to_(std::move(to)), fused_(fused) {}

  void push(std::string token, const TextSink& next) override {
    if (!fused_) return next(replace_all(token, from_, to_));
    // An occurrence may go on in the next part: the longest tail that begins one is held back.
    held_ += token;
    const size_t last = last_match_end(held_);
    size_t tail = std::min(held_.size() - last, from_.size() - 1);
    while (tail > 0 && !from_.starts_with(std::string_view(held_).substr(held_.size() - tail))) {
      --tail;
    }
    const size_t ready = held_.size() - tail;
    next(replace_all(std::string_view(held_).substr(0, ready), from_, to_));
    held_.erase(0, ready);
  }

  void finish(const TextSink& next) override {
    if (!held_.empty()) next(std::exchange(held_, {}));
  }

 private:
  // End of the last occurrence when they are taken from the left without overlap.
  size_t last_match_end(const std::string& text) const {
    size_t end = 0;
    for (size_t hit; (hit = text.find(from_, end)) != std::string::npos;) end = hit + from_.size();
    return end;
  }

  const std::string from_, to_;
  const bool fused_;
  std::string held_;
};

// Joins byte tokens to characters.
class ByteFallbackStage final : public DecodeStage {
 public:
  void push(std::string token, const TextSink& next) override {
    if (const std::optional<char> byte = fallback_byte(token)) {
      run_.push_back(*byte);
      return;
    }
    finish(next);
    next(std::move(token));
  }

  void finish(const TextSink& next) override {
    if (run_.empty()) return;
    const std::string run = std::exchange(run_, {});
    if (is_utf8(run)) return next(run);
    for (size_t i = 0; i < run.size(); ++i) next(std::string(kReplacementCharacter));
  }

 private:
  std::string run_;
};

// Takes up to `start` and `stop` copies of a character off the ends of each token, or of one long
// text that arrives in parts.
class StripStage final : public DecodeStage {
 public:
  StripStage(std::string content, size_t start, size_t stop, bool fused)
      : content_(std::move(content)), start_(start), stop_(stop), fused_(fused), left_(start) {}

  void push(std::string token, const TextSink& next) override {
    std::string_view text = token;
    if (!fused_) left_ = start_;
    for (; left_ > 0 && text.starts_with(content_); --left_) text.remove_prefix(content_.size());
    if (!text.empty()) left_ = 0;
    held_ += text;
    size_t tail = 0;
    const std::string_view all = held_;
    while (tail < stop_ && all.substr(0, all.size() - tail * content_.size()).ends_with(content_)) {
      ++tail;
    }
    const size_t ready = held_.size() - tail * content_.size();
    next(held_.substr(0, ready));
    if (fused_)
      held_.erase(0, ready);
    else
      held_.clear();
  }

  // What is still held is the end of the text: it goes.
  void finish(const TextSink&) override { held_.clear(); }

 private:
  const std::string content_;
  const size_t start_, stop_;
  const bool fused_;
  size_t left_;  // copies that may still go at the start
  std::string held_;
};

// The replacement character becomes a space; in the first token it goes where one was put before.
class MetaspaceStage final : public DecodeStage {
 public:
  MetaspaceStage(std::string replacement, bool prepended, bool fused)
      : replacement_(std::move(replacement)), prepended_(prepended), fused_(fused) {}

  void push(std::string token, const TextSink& next) override {
    const bool remove = prepended_ && (first_ || fused_);
    first_ = false;
    next(replace_all(token, replacement_, remove ? "" : " "));
  }

  void finish(const TextSink&) override {}

 private:
  const std::string replacement_;
  const bool prepended_, fused_;
  bool first_ = true;
};

// The byte-level alphabet back to bytes, and these to characters. A token with a character that is
// not of the alphabet (an added token with a space, say) stands for itself.
class ByteLevelStage final : public DecodeStage {
 public:
  void push(std::string token, const TextSink& next) override {
    std::string text;
    stream_.push(byte_level_bytes(token).value_or(token), text);
    if (!text.empty()) next(std::move(text));
  }

  void finish(const TextSink& next) override {
    std::string text;
    stream_.finish(text);
    if (!text.empty()) next(std::move(text));
  }

 private:
  Utf8Stream stream_;
};

// Without any decoder: a space between tokens.
class JoinStage final : public DecodeStage {
 public:
  void push(std::string token, const TextSink& next) override {
    next(first_ ? std::move(token) : " " + token);
    first_ = false;
  }
  void finish(const TextSink&) override {}

 private:
  bool first_ = true;
};

size_t read_count(const Json& component, const char* key, const std::string& where) {
  return static_cast<size_t>(json_id(component, key, where));
}

}  // namespace

DecodeChain::DecodeChain(std::vector<std::unique_ptr<DecodeStage>> stages)
    : stages_(std::move(stages)) {}

void DecodeChain::feed(size_t stage, std::string token, std::string& out) {
  if (stage == stages_.size()) {
    out += token;
  } else {
    stages_[stage]->push(std::move(token), after(stage, out));
  }
}

TextSink DecodeChain::after(size_t stage, std::string& out) {
  return [this, stage, &out](std::string text) { feed(stage + 1, std::move(text), out); };
}

void DecodeChain::finish(std::string& out) {
  for (size_t i = 0; i < stages_.size(); ++i) stages_[i]->finish(after(i, out));
}

Decoder::Decoder(const TokenizerFile& file) {
  const Json* component = json_optional(file.root, "decoder");
  if (component == nullptr) {
    steps_.push_back([] { return std::make_unique<JoinStage>(); });
  } else {
    read_steps(*component, file.name + ": decoder");
  }
}

void Decoder::read_steps(const Json& component, const std::string& where) {
  const std::string type = json_string(component, "type", where);
  const bool fused = fused_;
  if (type == "Sequence") {
    size_t index = 0;
    for (const Json& part : json_array(component, "decoders", where)) {
      read_steps(part, concat(where, '[', index++, ']'));
    }
  } else if (type == "Fuse") {
    fused_ = true;
  } else if (type == "Replace") {
    const Pattern pattern = read_pattern(component, where);
    ENGINE_CHECK(!pattern.regex, ErrorKind::kUnsupported, where,
                 ": a Replace decoder with a regular expression is not supported");
    steps_.push_back([from = pattern.literal, to = json_string(component, "content", where),
                      fused] { return std::make_unique<ReplaceStage>(from, to, fused); });
  } else if (type == "Strip") {
    const std::string content = json_string(component, "content", where);
    ENGINE_CHECK(!content.empty() && read_utf8(content).length == content.size(), ErrorKind::kModel,
                 where, ": content ", quote(content), " is not one character");
    steps_.push_back([content, start = read_count(component, "start", where),
                      stop = read_count(component, "stop", where),
                      fused] { return std::make_unique<StripStage>(content, start, stop, fused); });
  } else if (type == "Metaspace") {
    const bool prepended = read_prepend_scheme(component, where) != PrependScheme::kNever;
    steps_.push_back([replacement = read_replacement(component, where), prepended, fused] {
      return std::make_unique<MetaspaceStage>(replacement, prepended, fused);
    });
  } else if (type == "ByteFallback" || type == "ByteLevel") {
    ENGINE_CHECK(!fused, ErrorKind::kUnsupported, where, ": ", type,
                 " after Fuse is not supported");
    if (type == "ByteLevel") {
      fused_ = true;
      steps_.push_back([] { return std::make_unique<ByteLevelStage>(); });
    } else {
      steps_.push_back([] { return std::make_unique<ByteFallbackStage>(); });
    }
  } else {
    fail(ErrorKind::kUnsupported, where, ": decoder ", quote(type), " is not supported");
  }
}

DecodeChain Decoder::start() const {
  std::vector<std::unique_ptr<DecodeStage>> stages;
  for (const MakeStage& make : steps_) stages.push_back(make());
  return DecodeChain(std::move(stages));
}

}  // namespace engine
