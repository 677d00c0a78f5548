#include "engine/io/tokenizer_json.h"

#include <algorithm>
#include <utility>

#include "engine/io/tokenizer_json_added.h"
#include "engine/io/tokenizer_json_bpe.h"
#include "engine/io/tokenizer_json_decoder.h"
#include "engine/io/tokenizer_json_file.h"
#include "engine/io/tokenizer_json_normalizer.h"
#include "engine/io/tokenizer_json_pretokenizer.h"
#include "engine/io/tokenizer_json_template.h"
#include "kernels/core/check.h"

namespace engine {
namespace {

class JsonTokenizer final : public Tokenizer {
 public:
  JsonTokenizer(TokenizerFile file, const TokenizerConfig& config)
      : normalizer_(file),
        pre_tokenizer_(file),
        decoder_(file),
        model_(file, pre_tokenizer_.byte_level()),
        added_(
            file, [this](std::string text) { return normalizer_.apply(std::move(text)); },
            [this](std::string_view piece) { return model_.id_of(piece); }) {
    base_vocab_size_ = model_.size();
    vocab_size_ = std::max(base_vocab_size_, added_.max_id() + 1);
    const TextTemplate around = read_template(file, [this](int32_t id) { return contains(id); });
    prefix_ = around.prefix;
    suffix_ = around.suffix;
    if (!around.present && config.add_bos_token.value_or(false) && config.bos_token) {
      prefix_ = {configured_id(config, *config.bos_token)};
    }
    if (config.eos_token) eos_ids_ = {configured_id(config, *config.eos_token)};
  }

  std::optional<std::string> piece(int32_t id) const override {
    if (const AddedToken* token = added_.find(id)) return token->content;
    const std::string* piece = model_.piece_of(id);
    return piece == nullptr ? std::nullopt : std::optional(*piece);
  }

  std::optional<int32_t> token_id(std::string_view piece) const override {
    if (const AddedToken* token = added_.find(piece)) return token->id;
    return model_.id_of(piece);
  }

  std::unique_ptr<DecodeState> start_decoding(SpecialTokens special) const override {
    return std::make_unique<State>(*this, special);
  }

 private:
  class State final : public DecodeState {
   public:
    State(const JsonTokenizer& tokenizer, SpecialTokens special)
        : tokenizer_(tokenizer),
          skip_(special == SpecialTokens::kSkip),
          chain_(tokenizer.decoder_.start()) {}

    void push(int32_t id, std::string& out) override {
      const AddedToken* added = tokenizer_.added_.find(id);
      if (added != nullptr && added->special && skip_) return;
      const std::string* piece = tokenizer_.model_.piece_of(id);
      if (added == nullptr && piece == nullptr) fail_unknown_token(id, tokenizer_.vocab_size());
      chain_.push(added != nullptr ? added->matched : *piece, out);
    }

    void finish(std::string& out) override { chain_.finish(out); }

   private:
    const JsonTokenizer& tokenizer_;
    const bool skip_;
    DecodeChain chain_;
  };

  std::vector<int32_t> encode_text(std::string_view text) const override {
    std::vector<int32_t> ids;
    BpeScratch scratch;
    for (const Segment& segment : added_.raw().split(text)) {
      if (segment.id >= 0) {
        ids.push_back(segment.id);
      } else {
        encode_stretch(segment.text, segment.text.data() == text.data(), scratch, ids);
      }
    }
    return ids;
  }

  // A stretch between the tokens that are matched on raw text.
  void encode_stretch(std::string_view text, bool at_start, BpeScratch& scratch,
                      std::vector<int32_t>& ids) const {
    std::string normalized;
    if (!normalizer_.empty()) {
      normalized = normalizer_.apply(std::string(text));
      text = normalized;
    }
    for (const Segment& segment : added_.normalized().split(text)) {
      if (segment.id >= 0) {
        ids.push_back(segment.id);
        continue;
      }
      TextArena arena;
      const bool first = at_start && segment.text.data() == text.data();
      for (const PreToken& token : pre_tokenizer_.split(segment.text, first, arena)) {
        model_.encode(token.text, scratch, ids);
      }
    }
  }

  const Normalizer normalizer_;
  const PreTokenizer pre_tokenizer_;
  const Decoder decoder_;
  const BpeModel model_;
  const AddedTokens added_;
};

// Refuses every model but BPE. Older files have no `type`: merges tell BPE.
void check_model_type(const TokenizerFile& file) {
  const Json& model = json_member(file.root, "model", file.name);
  const std::string where = file.name + ": model";
  ENGINE_CHECK(model.is_object(), ErrorKind::kModel, where, ": expected an object, found ",
               model.describe());
  if (model.find("type") == nullptr && file.has_merges) return;
  const std::string type = json_string(model, "type", where);
  ENGINE_CHECK(type == "BPE", ErrorKind::kUnsupported, where, ": model type ", quote(type),
               " is not supported, only BPE is");
}

}  // namespace

std::unique_ptr<Tokenizer> load_json_tokenizer(std::string_view content, const std::string& name,
                                               const TokenizerConfig& config) {
  TokenizerFile file = parse_tokenizer_file(content, name);
  check_model_type(file);
  return std::make_unique<JsonTokenizer>(std::move(file), config);
}

}  // namespace engine
