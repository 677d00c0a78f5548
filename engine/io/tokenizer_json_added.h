// Added tokens of a tokenizer.json: texts that become one id before the model sees anything.
//
// Those with `normalized: false` are matched on the raw text; each stretch between them is
// normalised by itself and then searched for those with `normalized: true` (their own text
// normalised too). The match is the leftmost, then the longest, found with a trie, so that the time
// does not depend on how many tokens there are. Immutable after construction; thread-safe.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "engine/io/regex.h"
#include "engine/io/tokenizer_json_file.h"

namespace engine {

struct AddedToken {
  int32_t id = 0;
  std::string content;
  std::string matched;       // what the text is searched for: the content, normalised if asked for;
                             // decoding gives this back
  bool single_word = false;  // only where no word character is next to it
  bool lstrip = false;       // takes the white space before it
  bool rstrip = false;       // takes the white space after it
  bool normalized = true;
  bool special = false;  // left out of decoded text
};

// A stretch of text, or one token where id >= 0.
struct Segment {
  std::string_view text;
  int32_t id = -1;
};

// Finds one set of added tokens in a text.
class AddedTokenMatcher {
 public:
  AddedTokenMatcher();

  // Adds `pattern` for `token`; an empty pattern, or one already there, is left out.
  void add(std::string_view pattern, const AddedToken& token);
  bool empty() const { return tokens_.empty(); }

  // Cuts `text` into tokens and the stretches between them; empty stretches are left out. The
  // segments view `text`.
  std::vector<Segment> split(std::string_view text) const;

 private:
  struct Node {
    std::vector<std::pair<uint8_t, int32_t>> children;
    int32_t token = -1;  // index into tokens_ of the pattern that ends here
  };

  int32_t child(int32_t node, uint8_t byte) const;
  Span longest_at(std::string_view text, size_t at, int32_t& token) const;

  std::vector<Node> nodes_;
  std::array<int32_t, 256> roots_{};  // child of the root by byte, -1 for none
  std::vector<AddedToken> tokens_;
};

class AddedTokens {
 public:
  // Reads `added_tokens` of `file`. `normalize` gives the normalised form of a text; `vocabulary`
  // the id that the model has for a piece (an added token may repeat it, not contradict it).
  AddedTokens(const TokenizerFile& file, const std::function<std::string(std::string)>& normalize,
              const std::function<std::optional<int32_t>(std::string_view)>& vocabulary);

  const AddedTokenMatcher& raw() const { return raw_; }
  const AddedTokenMatcher& normalized() const { return normalized_; }

  // The token of an id or of a content, or null.
  const AddedToken* find(int32_t id) const;
  const AddedToken* find(std::string_view content) const;

  // Highest id, -1 when there are none.
  int32_t max_id() const { return max_id_; }

 private:
  std::vector<AddedToken> tokens_;
  std::unordered_map<int32_t, size_t> by_id_;
  std::unordered_map<std::string, size_t> by_content_;
  AddedTokenMatcher raw_, normalized_;
  int32_t max_id_ = -1;
};

}  // namespace engine
