// The post-processor of a tokenizer.json: the tokens it puts around a text.
//
// Sequence, TemplateProcessing (its `single` template) and ByteLevel (which moves offsets, not ids)
// are known; others are refused by name. A plain value.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "engine/io/tokenizer_json_file.h"

namespace engine {

struct TextTemplate {
  bool present = false;  // the file has a TemplateProcessing, which then decides about BOS
  std::vector<int32_t> prefix, suffix;
};

// Reads `post_processor` of the document; `contains` tells whether an id is in the tokenizer.
TextTemplate read_template(const TokenizerFile& file, const std::function<bool(int32_t)>& contains);

}  // namespace engine
