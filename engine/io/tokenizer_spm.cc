#include "engine/io/tokenizer_spm.h"

#include <sentencepiece_processor.h>

#include <unordered_set>
#include <utility>

#include "engine/io/json.h"
#include "engine/io/spm_model.h"
#include "engine/io/tokenizer_json_normalizer.h"
#include "engine/io/utf8.h"
#include "kernels/core/check.h"

namespace engine {
namespace {

// U+2581, which stands for a space in pieces.
constexpr std::string_view kSpaceSymbol = "\xE2\x96\x81";

class SpmTokenizer final : public Tokenizer {
 public:
  SpmTokenizer(const std::string& content, const std::string& name, const TokenizerConfig& config)
      : model_(parse_spm_model(content, name)) {
    const sentencepiece::util::Status status = processor_.LoadFromSerializedProto(content);
    ENGINE_CHECK(status.ok(), ErrorKind::kModel, name,
                 ": not a valid SentencePiece model: ", quote(status.error_message()));
    if (!model_.byte_fallback) collect_known();
    vocab_size_ = base_vocab_size_ = static_cast<int32_t>(model_.pieces.size());
    const int32_t bos = processor_.bos_id();
    if (bos >= 0 && config.add_bos_token.value_or(true)) prefix_ = {bos};
    const int32_t eos = processor_.eos_id();
    if (eos >= 0) eos_ids_ = {eos};
    if (config.eos_token) add_configured_eos(configured_id(config, *config.eos_token));
  }

  std::optional<std::string> piece(int32_t id) const override {
    if (id < 0 || id >= vocab_size_) return std::nullopt;
    return model_.pieces[static_cast<size_t>(id)].text;
  }

  std::optional<int32_t> token_id(std::string_view piece) const override {
    const int32_t id = processor_.PieceToId(piece);
    // The library gives the unknown token for what it does not know.
    if (id < 0 || id >= vocab_size_ || model_.pieces[static_cast<size_t>(id)].text != piece) {
      return std::nullopt;
    }
    return id;
  }

  std::unique_ptr<DecodeState> start_decoding(SpecialTokens special) const override {
    return std::make_unique<State>(model_, special);
  }

 private:
  // The library's decoding rules, token by token: a run of byte pieces is read as UTF-8, an invalid
  // byte is U+FFFD; the first piece of the text loses the space that encoding put before it.
  class State final : public DecodeState {
   public:
    State(const SpmModel& model, SpecialTokens special)
        : model_(model), keep_(special == SpecialTokens::kKeep) {}

    void push(int32_t id, std::string& out) override {
      if (id < 0 || static_cast<size_t>(id) >= model_.pieces.size()) {
        fail_unknown_token(id, static_cast<int32_t>(model_.pieces.size()));
      }
      const SpmPiece& piece = model_.pieces[static_cast<size_t>(id)];
      const size_t before = out.size();
      if (piece.type == SpmPieceType::kByte) {
        const int value = std::stoi(piece.text.substr(3, 2), nullptr, 16);
        push_byte(static_cast<char>(value), out);
      } else {
        finish(out);
        started_ = started_ || out.size() > before;
        push_piece(piece, out);
      }
      started_ = started_ || out.size() > before;
    }

    void finish(std::string& out) override {
      for (size_t i = 0; i < held_.size(); ++i) out += kReplacementCharacter;
      held_.clear();
    }

   private:
    // Each byte of an invalid sequence is one U+FFFD, unlike in Utf8Stream.
    void push_byte(char byte, std::string& out) {
      held_ += byte;
      while (!held_.empty()) {
        const Utf8Scalar scalar = read_utf8(held_);
        if (scalar.truncated) return;
        const size_t length = scalar.valid ? scalar.length : 1;
        if (scalar.valid)
          out.append(held_, 0, length);
        else
          out += kReplacementCharacter;
        held_.erase(0, length);
      }
    }

    void push_piece(const SpmPiece& piece, std::string& out) {
      if (piece.type == SpmPieceType::kControl) {
        if (keep_) out += piece.text;
        return;
      }
      if (piece.type == SpmPieceType::kUnknown) {
        out += model_.unknown_surface;
        return;
      }
      std::string_view text = piece.text;
      if (!started_ && (model_.add_dummy_prefix || model_.remove_extra_whitespaces) &&
          text.starts_with(kSpaceSymbol)) {
        text.remove_prefix(kSpaceSymbol.size());
        // With extra spaces removed, all that stand at the start go.
        started_ = !model_.remove_extra_whitespaces;
      }
      out += replace_all(text, kSpaceSymbol, " ");
    }

    const SpmModel& model_;
    const bool keep_;
    bool started_ = false;  // past the start of the text, where a space is taken off
    std::string held_;      // bytes of an incomplete character
  };

  std::vector<int32_t> encode_text(std::string_view text) const override {
    std::vector<int> ids;
    const std::string shortened = model_.byte_fallback ? "" : shorten_unknown(text);
    const sentencepiece::util::Status status =
        processor_.Encode(model_.byte_fallback ? text : shortened, &ids);
    ENGINE_CHECK(status.ok(), ErrorKind::kInternal,
                 "SentencePiece: ", quote(status.error_message()));
    return ids;
  }

  // The characters that some piece has.
  void collect_known() {
    for (const SpmPiece& piece : model_.pieces) {
      for (std::string_view left = piece.text; !left.empty();) {
        const Utf8Scalar scalar = read_utf8(left);
        known_.insert(scalar.value);
        left.remove_prefix(scalar.length);
      }
    }
  }

  // Without byte fallback a run of unknown characters is one token, but the library joins them one
  // by one in quadratic time. So all of a run goes but its start. Only characters count that are
  // surely unknown, in no piece and at the start of nothing that the normaliser maps: then the ids
  // stay the same, unless a text that is mapped as one were longer than the start that is kept.
  std::string shorten_unknown(std::string_view text) const {
    constexpr size_t kKeep = 256;  // characters of a run that are kept
    std::string result;
    size_t run = 0;  // unknown characters in a row
    while (!text.empty()) {
      const Utf8Scalar scalar = read_utf8(text);
      const std::string_view bytes = text.substr(0, scalar.valid ? scalar.length : 1);
      text.remove_prefix(bytes.size());
      const char32_t value = scalar.valid ? scalar.value : U'\uFFFD';
      if (value == U' ' || known_.contains(value) || model_.starts_mapped_text(bytes)) {
        run = 0;
      } else if (++run > kKeep) {
        continue;
      }
      result.append(bytes);
    }
    return result;
  }

  void add_configured_eos(int32_t id) {
    if (eos_ids_.empty() || eos_ids_.front() != id) eos_ids_.push_back(id);
  }

  const SpmModel model_;
  std::unordered_set<char32_t> known_;  // filled where there is no byte fallback
  sentencepiece::SentencePieceProcessor processor_;
};

}  // namespace

std::unique_ptr<Tokenizer> load_spm_tokenizer(const std::string& content, const std::string& name,
                                              const TokenizerConfig& config) {
  return std::make_unique<SpmTokenizer>(content, name, config);
}

}  // namespace engine
