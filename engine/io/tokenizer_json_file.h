// The raw content of a tokenizer.json: a strict reader that keeps the two large tables out of the
// document tree, and the accessors with which its components are read.
//
// Internal to the tokenizers. Every function throws Error{kModel} naming the file and the member.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "engine/io/json.h"

namespace engine {

// Ids past this bound are refused, so that a file cannot ask for tables of any size.
inline constexpr int32_t kMaxTokenId = (1 << 22) - 1;

struct TokenizerFile {
  std::string name;  // as errors name it
  Json root;         // all of the document but the two tables below
  bool has_vocab = false;
  bool has_merges = false;
  std::vector<std::pair<std::string, int32_t>> vocab;       // model.vocab when it is an object
  std::vector<std::pair<std::string, std::string>> merges;  // model.merges, in order of rank
};

// Parses a tokenizer.json. Refused: what json.h refuses, a duplicate key outside the vocabulary
// (there it is found when the index is built), an id that is not in [0, 2^22).
TokenizerFile parse_tokenizer_file(std::string_view content, const std::string& name);

// A required member, of a required type; `where` names the object in errors.
const Json& json_member(const Json& object, const char* key, const std::string& where);
std::string json_string(const Json& object, const char* key, const std::string& where);
int32_t json_id(const Json& object, const char* key, const std::string& where);

// An optional member: null pointer where it is absent or null.
const Json* json_optional(const Json& object, const char* key);

// An optional member: absent or null gives `fallback`.
bool json_bool(const Json& object, const char* key, bool fallback, const std::string& where);

// The list at `key`, which must be an array.
const Json::Array& json_array(const Json& object, const char* key, const std::string& where);

// An id: an integer in [0, kMaxTokenId], or nothing.
std::optional<int32_t> as_token_id(const Json& value);

}  // namespace engine
