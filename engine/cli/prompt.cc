#include "engine/cli/prompt.h"

#include <unistd.h>

#include <cerrno>
#include <charconv>
#include <cstdio>
#include <cstring>
#include <memory>
#include <set>
#include <system_error>

#include "kernels/core/check.h"

namespace engine {
namespace {

std::string read_stream(std::FILE* stream, const std::string& name) {
  std::string text;
  char block[1 << 16];
  std::size_t count = 0;
  while ((count = std::fread(block, 1, sizeof(block), stream)) > 0) text.append(block, count);
  ENGINE_CHECK(std::ferror(stream) == 0, ErrorKind::kIo, name,
               ": cannot read: ", std::strerror(errno));
  return text;
}

}  // namespace

std::string read_text_file(const std::string& name) {
  if (name == "-") return read_stream(stdin, "standard input");
  const std::unique_ptr<std::FILE, int (*)(std::FILE*)> file(std::fopen(name.c_str(), "rb"),
                                                             std::fclose);
  ENGINE_CHECK(file != nullptr, ErrorKind::kUsage, name, ": cannot open: ", std::strerror(errno));
  return read_stream(file.get(), name);
}

std::string read_prompt_text(const GenerateFlags& flags) {
  if (flags.prompt) return *flags.prompt;
  if (flags.prompt_file) return read_text_file(*flags.prompt_file);
  ENGINE_CHECK(
      ::isatty(STDIN_FILENO) == 0, ErrorKind::kUsage,
      "no prompt: expected --prompt, --prompt-file, --prompt-tokens or text piped to stdin");
  return read_text_file("-");
}

std::vector<std::int32_t> encode_prompt(const Tokenizer& tokenizer, std::string_view text,
                                        const GenerateFlags& flags) {
  std::vector<std::int32_t> ids = tokenizer.encode(text, !flags.no_bos);
  ENGINE_CHECK(!ids.empty(), ErrorKind::kUsage,
               "the prompt is empty and no beginning-of-sequence token is added to it");
  return ids;
}

std::vector<std::int32_t> parse_prompt_tokens(const std::string& list) {
  std::vector<std::int32_t> ids;
  const char* at = list.data();
  const char* const end = at + list.size();
  while (true) {
    std::int32_t id = -1;
    const auto [stop, error] = std::from_chars(at, end, id);
    const bool separated = stop == end || *stop == ',';
    ENGINE_CHECK(error == std::errc() && id >= 0 && separated, ErrorKind::kUsage,
                 "--prompt-tokens: expected ids like 1,403,407, found '", std::string(at, end),
                 "'");
    ids.push_back(id);
    if (stop == end) return ids;
    at = stop + 1;
  }
}

bool has_tokenizer(const std::filesystem::path& directory) {
  std::error_code ignored;
  return std::filesystem::exists(directory / "tokenizer.json", ignored) ||
         std::filesystem::exists(directory / "tokenizer.model", ignored);
}

std::string check_tokenizer(const Tokenizer& tokenizer, const ModelConfig& config) {
  ENGINE_CHECK(tokenizer.base_vocab_size() <= config.vocab, ErrorKind::kModel,
               "the tokenizer's base vocabulary has ", tokenizer.base_vocab_size(),
               " ids, the model's vocab_size is ", config.vocab);
  if (tokenizer.vocab_size() <= config.vocab) return {};
  return concat("warning: the tokenizer's added tokens reach id ", tokenizer.vocab_size() - 1,
                ", the model's vocab_size is ", config.vocab);
}

std::vector<std::int32_t> eos_ids(const ModelConfig& config, const GenerationConfig& generation,
                                  const Tokenizer* tokenizer) {
  std::set<std::int32_t> ids;
  for (const std::int64_t id : config.eos_ids) ids.insert(static_cast<std::int32_t>(id));
  for (const std::int64_t id : generation.eos_ids) ids.insert(static_cast<std::int32_t>(id));
  if (tokenizer != nullptr) ids.insert(tokenizer->eos_ids().begin(), tokenizer->eos_ids().end());
  return {ids.begin(), ids.end()};
}

}  // namespace engine
