// Pre-tokenizers of a tokenizer.json: Sequence, Split, ByteLevel, Metaspace, Digits.
//
// They cut a normalised stretch of text into the pieces that the model encodes one by one. Other
// kinds are refused by name. Immutable; thread-safe.
#pragma once

#include <deque>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "engine/io/tokenizer_json_file.h"

namespace engine {

struct PreToken {
  std::string_view text;
  bool at_start = false;  // it holds the first byte of the text given to encode
};

// Owns the texts that a step had to change; a deque, so that views into it stay valid.
using TextArena = std::deque<std::string>;

// One step: cuts, and may change, the tokens it is given. Empty ones are left out.
class PreTokenizerStep {
 public:
  virtual ~PreTokenizerStep() = default;
  virtual std::vector<PreToken> apply(std::vector<PreToken> tokens, TextArena& arena) const = 0;
};

class PreTokenizer {
 public:
  // Reads `pre_tokenizer` of the document; null means that a stretch is one pre-token.
  explicit PreTokenizer(const TokenizerFile& file);

  // True when the last step is ByteLevel: pre-tokens are raw bytes for a vocabulary in the
  // byte-level alphabet.
  bool byte_level() const { return byte_level_; }

  // The pre-tokens of one stretch; they view `text` or `arena`.
  std::vector<PreToken> split(std::string_view text, bool at_start, TextArena& arena) const;

 private:
  void read_steps(const Json& component, const std::string& where);

  std::vector<std::unique_ptr<const PreTokenizerStep>> steps_;
  bool byte_level_ = false;
};

// When Metaspace puts its replacement character before a stretch.
enum class PrependScheme { kFirst, kAlways, kNever };

// Of a Metaspace component (pre-tokenizer or decoder): `prepend_scheme`, or the older
// `add_prefix_space`. A contradiction of the two is Error{kModel}.
PrependScheme read_prepend_scheme(const Json& component, const std::string& where);

// `replacement` of a Metaspace component: one character.
std::string read_replacement(const Json& component, const std::string& where);

}  // namespace engine
