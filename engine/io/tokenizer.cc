#include "engine/io/tokenizer.h"

#include <system_error>

#include "engine/io/file.h"
#include "engine/io/json.h"
#include "engine/io/tokenizer_json.h"
#include "engine/io/tokenizer_json_file.h"
#include "engine/io/tokenizer_spm.h"
#include "kernels/core/check.h"

namespace engine {
namespace {

namespace fs = std::filesystem;
// Far above any real tokenizer; keeps a wrong path (weights, say) from being read into memory.
constexpr uint64_t kMaxFileBytes = 512u << 20;

// A token of tokenizer_config.json: a string, an object with its content, or null.
std::optional<std::string> config_token(const Json& config, const char* key,
                                        const std::string& where) {
  const Json* found = json_optional(config, key);
  if (found == nullptr) return std::nullopt;
  if (found->is_object()) return json_string(*found, "content", concat(where, ": ", key));
  return json_string(config, key, where);
}

TokenizerConfig read_config(const fs::path& directory) {
  TokenizerConfig config;
  const fs::path path = directory / "tokenizer_config.json";
  if (!fs::exists(path)) return config;
  config.name = path.string();
  const Json document = parse_json_file(path, kMaxFileBytes);
  ENGINE_CHECK(document.is_object(), ErrorKind::kModel, config.name, ": expected an object, found ",
               document.describe());
  config.bos_token = config_token(document, "bos_token", config.name);
  config.eos_token = config_token(document, "eos_token", config.name);
  if (json_optional(document, "add_bos_token") != nullptr) {
    config.add_bos_token = json_bool(document, "add_bos_token", false, config.name);
  }
  return config;
}

fs::path choose_file(const fs::path& path) {
  std::error_code error;
  const fs::file_status status = fs::status(path, error);
  ENGINE_CHECK(fs::exists(status), ErrorKind::kModel, path.string(),
               ": cannot open: ", error.message());
  if (!fs::is_directory(status)) return path;
  for (const char* name : {"tokenizer.json", "tokenizer.model"}) {
    if (fs::exists(path / name, error)) return path / name;
  }
  fail(ErrorKind::kModel, path.string(),
       ": no tokenizer: neither tokenizer.json nor tokenizer.model is there");
}

// Whether the content is meant as JSON: a '{' after white space (no SentencePiece protobuf has it:
// the first byte of one is a field tag, 0x0A for its first piece).
bool looks_like_json(std::string_view content) {
  const size_t first = content.find_first_not_of(" \t\r\n");
  return first != std::string_view::npos && content[first] == '{';
}

}  // namespace

std::vector<int32_t> Tokenizer::encode(std::string_view text, bool add_bos) const {
  std::vector<int32_t> ids = encode_text(text);
  if (add_bos) {
    ids.insert(ids.begin(), prefix_.begin(), prefix_.end());
    ids.insert(ids.end(), suffix_.begin(), suffix_.end());
  }
  return ids;
}

std::string Tokenizer::decode(std::span<const int32_t> ids, SpecialTokens special) const {
  const std::unique_ptr<DecodeState> state = start_decoding(special);
  std::string text;
  for (const int32_t id : ids) state->push(id, text);
  state->finish(text);
  return text;
}

std::optional<int32_t> Tokenizer::bos_id() const {
  if (prefix_.empty()) return std::nullopt;
  return prefix_.front();
}

int32_t Tokenizer::configured_id(const TokenizerConfig& config, const std::string& token) const {
  const std::optional<int32_t> id = token_id(token);
  ENGINE_CHECK(id.has_value(), ErrorKind::kModel, config.name, ": token ", quote(token),
               " is not in the tokenizer");
  return *id;
}

StreamDecoder::StreamDecoder(const Tokenizer& tokenizer, SpecialTokens special)
    : state_(tokenizer.start_decoding(special)) {}

void StreamDecoder::prime(std::span<const int32_t> ids) {
  std::string prompt;
  for (const int32_t id : ids) state_->push(id, prompt);
}

std::string StreamDecoder::push(int32_t id) {
  std::string text;
  state_->push(id, text);
  return text;
}

std::string StreamDecoder::flush() {
  std::string text;
  state_->finish(text);
  return text;
}

std::unique_ptr<Tokenizer> load_tokenizer(const fs::path& path) {
  const fs::path file = choose_file(path);
  const std::string content = read_text_file(file, kMaxFileBytes);
  const TokenizerConfig config = read_config(file.parent_path());
  if (file.extension() == ".json" || looks_like_json(content)) {
    return load_json_tokenizer(content, file.string(), config);
  }
  return load_spm_tokenizer(content, file.string(), config);
}

void fail_unknown_token(int32_t id, int32_t size) {
  fail(ErrorKind::kUsage, "token id ", id, " is not in the vocabulary of ", size, " tokens");
}

}  // namespace engine
