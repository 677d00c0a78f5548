// The prompt of a run, from whichever flag or stream it comes.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "engine/cli/options.h"
#include "engine/io/tokenizer.h"
#include "engine/model/config.h"
#include "engine/model/generation_config.h"

namespace engine {

// The text of --prompt, --prompt-file or piped stdin, byte for byte. Throws Error{kUsage} where
// none of them gives one and Error{kIo} where reading fails.
std::string read_prompt_text(const GenerateFlags& flags);

// All bytes of a file, or of stdin for "-". Throws Error{kUsage} for a file that can't be opened
// and Error{kIo} where reading fails.
std::string read_text_file(const std::string& name);

// The ids of a text: BOS first where the tokenizer has one and --no-bos isn't given. Throws
// Error{kUsage} where no token comes out.
std::vector<std::int32_t> encode_prompt(const Tokenizer& tokenizer, std::string_view text,
                                        const GenerateFlags& flags);

// "1,403,407" as ids. Throws Error{kUsage} naming what is not a non-negative number.
std::vector<std::int32_t> parse_prompt_tokens(const std::string& list);

// Whether the directory has a tokenizer's file at all.
bool has_tokenizer(const std::filesystem::path& directory);

// Throws Error{kModel} where the tokenizer's base vocabulary has ids that the model lacks. Returns
// a warning where only added tokens do (a padding token, often), else the empty string.
std::string check_tokenizer(const Tokenizer& tokenizer, const ModelConfig& config);

// The ids that end a text: those of config.json, generation_config.json and the tokenizer together.
std::vector<std::int32_t> eos_ids(const ModelConfig& config, const GenerationConfig& generation,
                                  const Tokenizer* tokenizer);

}  // namespace engine
