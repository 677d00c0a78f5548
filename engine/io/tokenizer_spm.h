// The tokenizer of a SentencePiece tokenizer.model (BPE): the SentencePiece library encodes, the
// decoding is streamed here by the library's rules.
//
// Internal to load_tokenizer, which is the way in; see tokenizer.h for ownership and threads.
#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "engine/io/tokenizer.h"

namespace engine {

// `content` is the whole file, `name` its path. BOS is put first unless tokenizer_config.json says
// `add_bos_token: false`. Throws as load_tokenizer does.
std::unique_ptr<Tokenizer> load_spm_tokenizer(const std::string& content, const std::string& name,
                                              const TokenizerConfig& config);

}  // namespace engine
