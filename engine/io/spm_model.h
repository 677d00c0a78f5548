// Reads and checks the protobuf of a SentencePiece model.
//
// The SentencePiece library trusts what it loads, so a file is checked here first: the wire format,
// the pieces, and the character map, whose double-array trie the library walks without bounds. What
// the engine needs to know besides ids comes from here too. Free function; plain data.
//
// Format: sentencepiece_model.proto of the library, protobuf wire format (proto2).
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace engine {

// Values of SentencePiece.Type in the protobuf.
enum class SpmPieceType : uint8_t {
  kNormal = 1,
  kUnknown = 2,
  kControl = 3,
  kUserDefined = 4,
  kUnused = 5,
  kByte = 6,
};

struct SpmPiece {
  std::string text;
  SpmPieceType type = SpmPieceType::kNormal;
};

struct SpmModel {
  std::vector<SpmPiece> pieces;                    // by id
  std::string unknown_surface = " \xE2\x81\x87 ";  // text of the unknown token
  bool add_dummy_prefix = true;
  bool remove_extra_whitespaces = true;
  bool byte_fallback = false;
  std::vector<uint32_t> character_map;  // the checked trie of the normaliser; may be empty

  // True when a key of the character map begins with `scalar` (its UTF-8 bytes).
  bool starts_mapped_text(std::string_view scalar) const;
};

// Throws Error{kModel} where `content` is not a well-formed model (with a hint where it is a
// tiktoken rank file), Error{kUnsupported} where it is one of another kind than BPE or has an
// option that the engine does not have. `name` names the file in errors.
SpmModel parse_spm_model(std::string_view content, const std::string& name);

}  // namespace engine
