#include "engine/io/tokenizer_json_added.h"

#include <algorithm>

#include "engine/io/utf8.h"
#include "kernels/core/check.h"

namespace engine {
namespace {

// A word character as Unicode's regular expressions define it (UTS 18, annex C): alphabetic, mark,
// decimal number, connector punctuation, join control. Spelt out because PCRE2's \w is narrower.
const Regex& word_character() {
  static const Regex regex(
      R"([\p{L}\p{Nl}\p{M}\p{Nd}\p{Pc}\x{200c}\x{200d}\x{24b6}-\x{24e9}\x{1f130}-\x{1f149})"
      R"(\x{1f150}-\x{1f169}\x{1f170}-\x{1f189}])",
      "word character");
  return regex;
}

bool is_word(std::string_view scalar) { return !word_character().find_all(scalar).empty(); }

bool starts_with_word(std::string_view text) {
  return !text.empty() && is_word(text.substr(0, read_utf8(text).length));
}

bool ends_with_word(std::string_view text) {
  return !text.empty() && is_word(text.substr(last_scalar_start(text)));
}

bool is_space(std::string_view scalar) {
  const Utf8Scalar c = read_utf8(scalar);
  return c.valid && is_white_space(c.value);
}

// Where the white space at the end of `text` starts.
size_t trailing_space_start(std::string_view text) {
  size_t at = text.size();
  while (at > 0) {
    const size_t start = last_scalar_start(text.substr(0, at));
    if (!is_space(text.substr(start, at - start))) break;
    at = start;
  }
  return at;
}

// Bytes of white space at the start of `text`.
size_t leading_space_length(std::string_view text) {
  size_t at = 0;
  while (at < text.size() && is_space(text.substr(at))) at += read_utf8(text.substr(at)).length;
  return at;
}

AddedToken read_token(const Json& entry, const std::string& where) {
  AddedToken token;
  token.id = json_id(entry, "id", where);
  token.content = json_string(entry, "content", where);
  token.single_word = json_bool(entry, "single_word", false, where);
  token.lstrip = json_bool(entry, "lstrip", false, where);
  token.rstrip = json_bool(entry, "rstrip", false, where);
  token.special = json_bool(entry, "special", false, where);
  token.normalized = json_bool(entry, "normalized", !token.special, where);
  return token;
}

}  // namespace

AddedTokenMatcher::AddedTokenMatcher() : nodes_(1) { roots_.fill(-1); }

int32_t AddedTokenMatcher::child(int32_t node, uint8_t byte) const {
  const auto& children = nodes_[static_cast<size_t>(node)].children;
  const auto found = std::lower_bound(children.begin(), children.end(), std::pair(byte, 0));
  return found != children.end() && found->first == byte ? found->second : -1;
}

void AddedTokenMatcher::add(std::string_view pattern, const AddedToken& token) {
  if (pattern.empty()) return;
  int32_t node = 0;
  for (const char c : pattern) {
    const auto byte = static_cast<uint8_t>(c);
    int32_t next = child(node, byte);
    if (next < 0) {
      next = static_cast<int32_t>(nodes_.size());
      auto& children = nodes_[static_cast<size_t>(node)].children;
      children.insert(std::lower_bound(children.begin(), children.end(), std::pair(byte, 0)),
                      {byte, next});
      if (node == 0) roots_[byte] = next;
      nodes_.emplace_back();
    }
    node = next;
  }
  int32_t& owner = nodes_[static_cast<size_t>(node)].token;
  if (owner >= 0) return;
  owner = static_cast<int32_t>(tokens_.size());
  tokens_.push_back(token);
}

Span AddedTokenMatcher::longest_at(std::string_view text, size_t at, int32_t& token) const {
  Span best{at, at};
  int32_t node = roots_[static_cast<uint8_t>(text[at])];
  for (size_t end = at + 1; node >= 0; ++end) {
    if (nodes_[static_cast<size_t>(node)].token >= 0) {
      token = nodes_[static_cast<size_t>(node)].token;
      best.end = end;
    }
    if (end == text.size()) break;
    node = child(node, static_cast<uint8_t>(text[end]));
  }
  return best;
}

std::vector<Segment> AddedTokenMatcher::split(std::string_view text) const {
  std::vector<Segment> segments;
  size_t done = 0;  // end of what is already in `segments`
  for (size_t at = 0; !tokens_.empty() && at < text.size();) {
    if (roots_[static_cast<uint8_t>(text[at])] < 0) {
      ++at;
      continue;
    }
    int32_t index = -1;
    Span match = longest_at(text, at, index);
    if (index < 0) {
      ++at;
      continue;
    }
    at = match.end;
    const AddedToken& token = tokens_[static_cast<size_t>(index)];
    if (token.single_word &&
        (ends_with_word(text.substr(0, match.begin)) || starts_with_word(text.substr(match.end)))) {
      continue;
    }
    // White space that a token before has taken stays with it.
    if (token.lstrip) {
      const std::string_view open = text.substr(0, match.begin);
      match.begin = std::max(trailing_space_start(open), done);
    }
    if (token.rstrip) match.end += leading_space_length(text.substr(match.end));
    if (done < match.begin) segments.push_back({text.substr(done, match.begin - done), -1});
    segments.push_back({text.substr(match.begin, match.end - match.begin), token.id});
    done = match.end;
  }
  if (done < text.size()) segments.push_back({text.substr(done), -1});
  return segments;
}

AddedTokens::AddedTokens(
    const TokenizerFile& file, const std::function<std::string(std::string)>& normalize,
    const std::function<std::optional<int32_t>(std::string_view)>& vocabulary) {
  const Json* list = json_optional(file.root, "added_tokens");
  if (list == nullptr) return;
  ENGINE_CHECK(list->is_array(), ErrorKind::kModel, file.name,
               ": added_tokens: expected a list, found ", list->describe());
  for (const Json& entry : list->array()) {
    const std::string where = concat(file.name, ": added_tokens[", tokens_.size(), "]");
    AddedToken token = read_token(entry, where);
    const std::optional<int32_t> known = vocabulary(token.content);
    ENGINE_CHECK(!known || *known == token.id, ErrorKind::kModel, where, ": ", quote(token.content),
                 " has id ", token.id, ", in the vocabulary it has ", known.value_or(-1));
    ENGINE_CHECK(by_id_.emplace(token.id, tokens_.size()).second, ErrorKind::kModel, where, ": id ",
                 token.id, " is there twice");
    ENGINE_CHECK(by_content_.emplace(token.content, tokens_.size()).second, ErrorKind::kModel,
                 where, ": ", quote(token.content), " is there twice");
    token.matched = token.normalized ? normalize(token.content) : token.content;
    max_id_ = std::max(max_id_, token.id);
    tokens_.push_back(std::move(token));
  }
  // Special ones first: of two tokens with the same normalised text the first counts.
  for (const bool special : {true, false}) {
    for (const AddedToken& token : tokens_) {
      if (token.special != special) continue;
      (token.normalized ? normalized_ : raw_).add(token.matched, token);
    }
  }
}

const AddedToken* AddedTokens::find(int32_t id) const {
  const auto found = by_id_.find(id);
  return found == by_id_.end() ? nullptr : &tokens_[found->second];
}

const AddedToken* AddedTokens::find(std::string_view content) const {
  const auto found = by_content_.find(std::string(content));
  return found == by_content_.end() ? nullptr : &tokens_[found->second];
}

}  // namespace engine
