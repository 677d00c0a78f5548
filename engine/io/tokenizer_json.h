// The tokenizer of a tokenizer.json: added tokens, normaliser, pre-tokenizer, BPE model,
// post-processor and decoder, all as the file says.
//
// Internal to load_tokenizer, which is the way in; see tokenizer.h for ownership and threads.
#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "engine/io/tokenizer.h"

namespace engine {

// `content` is the whole file, `name` its path. Throws as load_tokenizer does.
std::unique_ptr<Tokenizer> load_json_tokenizer(std::string_view content, const std::string& name,
                                               const TokenizerConfig& config);

}  // namespace engine
