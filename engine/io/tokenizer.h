// Text to token ids and back.
//
// A Tokenizer is loaded from a checkpoint directory: tokenizer.json (Hugging Face: byte-level BPE
// and BPE with byte fallback) or tokenizer.model (SentencePiece BPE). It owns its tables, is
// immutable and may be used by several threads at once. A StreamDecoder is one pass over one
// sequence, belongs to one thread and must not outlive its tokenizer.
//
// Text that is not UTF-8 is never refused. Under a byte-level alphabet, and under byte fallback in
// tokenizer.json, each byte that is not part of a valid character is encoded as itself; in
// tokenizer.model it is encoded as U+FFFD, which is what the SentencePiece library does. Decoded
// text is always valid UTF-8.
//
// Encoding is lossless on valid text but for what the file's normaliser takes away: Llama 2 kinds
// turn U+2581 into a space, and a SentencePiece model may fold characters (NFKC) and runs of
// spaces.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace engine {

// What becomes of special tokens (BOS, EOS, <|eot_id|>) in decoded text.
enum class SpecialTokens { kSkip, kKeep };

// The state of one decoding, of the kind that the tokenizer needs.
class DecodeState {
 public:
  virtual ~DecodeState() = default;

  // Appends to `out` the text that `id` makes certain. Throws Error{kUsage} for an unknown id.
  virtual void push(int32_t id, std::string& out) = 0;

  // Appends what was held back.
  virtual void finish(std::string& out) = 0;
};

// What tokenizer_config.json (beside the tokenizer's file, optional) says about both kinds.
struct TokenizerConfig {
  std::string name;  // path, as errors name it; empty when there is no such file
  std::optional<std::string> bos_token, eos_token;
  std::optional<bool> add_bos_token;
};

class Tokenizer {
 public:
  virtual ~Tokenizer() = default;
  Tokenizer(const Tokenizer&) = delete;
  Tokenizer& operator=(const Tokenizer&) = delete;

  // The ids of `text`. With `add_bos` the tokens that the file puts around a text are there (BOS,
  // and whatever else its template says); without it there is the text alone. The empty text with
  // `add_bos` is thus BOS alone, or nothing where the file adds none.
  std::vector<int32_t> encode(std::string_view text, bool add_bos) const;

  // The text of a whole sequence: what a StreamDecoder gives for it in pieces.
  std::string decode(std::span<const int32_t> ids,
                     SpecialTokens special = SpecialTokens::kSkip) const;

  // One more than the highest id, with added tokens and without. Ids below may have holes.
  int32_t vocab_size() const { return vocab_size_; }
  int32_t base_vocab_size() const { return base_vocab_size_; }

  // The token that encode puts first, if any.
  std::optional<int32_t> bos_id() const;

  // The end-of-sequence tokens that the tokenizer's own files name; may be empty.
  const std::vector<int32_t>& eos_ids() const { return eos_ids_; }

  // The piece of an id as the file spells it (for messages and tools, not for text), or nothing
  // where the id is unknown.
  virtual std::optional<std::string> piece(int32_t id) const = 0;

  // The id of a piece as the file spells it.
  virtual std::optional<int32_t> token_id(std::string_view piece) const = 0;

  bool contains(int32_t id) const { return piece(id).has_value(); }

  virtual std::unique_ptr<DecodeState> start_decoding(SpecialTokens special) const = 0;

 protected:
  Tokenizer() = default;

  // The ids of `text` without anything around it.
  virtual std::vector<int32_t> encode_text(std::string_view text) const = 0;

  // The id of a token that `config` names; Error{kModel} where there is no such token.
  int32_t configured_id(const TokenizerConfig& config, const std::string& token) const;

  std::vector<int32_t> prefix_, suffix_;  // what encode puts around a text
  std::vector<int32_t> eos_ids_;
  int32_t vocab_size_ = 0;
  int32_t base_vocab_size_ = 0;
};

// Decodes token by token. The texts that push and flush return, joined, are decode() of all ids:
// a piece is returned as soon as no later id can change it, so no UTF-8 character is ever split.
class StreamDecoder {
 public:
  explicit StreamDecoder(const Tokenizer& tokenizer, SpecialTokens special = SpecialTokens::kSkip);

  // Takes the ids of a prompt: the text of what follows then continues it (the leading space of a
  // word stays, a character that the prompt began is completed). Returns nothing.
  void prime(std::span<const int32_t> ids);

  // The text that is ready after `id`; may be empty. Throws Error{kUsage} for an unknown id.
  std::string push(int32_t id);

  // The text held back at the end of the sequence. Call it once.
  std::string flush();

 private:
  std::unique_ptr<DecodeState> state_;
};

// Loads the tokenizer of a checkpoint directory (tokenizer.json, else tokenizer.model, with
// tokenizer_config.json beside it), or of one such file, told by its content. Throws
// Error{kModel} for a missing or malformed file and for a tiktoken rank file, Error{kUnsupported}
// for a model (unigram, WordPiece) or a component that the engine does not have, by name.
std::unique_ptr<Tokenizer> load_tokenizer(const std::filesystem::path& path);

// Error{kUsage} for an id outside a vocabulary of `size` tokens.
[[noreturn]] void fail_unknown_token(int32_t id, int32_t size);

}  // namespace engine
