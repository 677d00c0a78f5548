#include "engine/io/spm_model.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <optional>

#include "engine/io/tokenizer_json_file.h"
#include "engine/io/utf8.h"
#include "kernels/core/check.h"

namespace engine {
namespace {

// One field of a protobuf message: a number (varint or fixed) or bytes.
struct Field {
  uint64_t number = 0;
  uint64_t value = 0;      // varint, fixed32 or fixed64
  std::string_view bytes;  // length-delimited
  enum class Wire : uint8_t { kVarint = 0, kFixed64 = 1, kBytes = 2, kFixed32 = 5 } wire{};
};
using Wire = Field::Wire;

// Reads the fields of one message; every length is checked against the bytes left.
class FieldReader {
 public:
  FieldReader(std::string_view message, const std::string& name) : left_(message), name_(name) {}

  std::optional<Field> next() {
    if (left_.empty()) return std::nullopt;
    const uint64_t tag = varint();
    Field field;
    field.number = tag >> 3;
    field.wire = static_cast<Wire>(tag & 7);
    if (field.number == 0 || field.number > (uint64_t{1} << 29)) malformed();
    switch (field.wire) {
      case Wire::kVarint:
        field.value = varint();
        break;
      case Wire::kFixed64:
        field.value = fixed(8);
        break;
      case Wire::kFixed32:
        field.value = fixed(4);
        break;
      case Wire::kBytes:
        field.bytes = take(varint());
        break;
      default:
        malformed();
    }
    return field;
  }

 private:
  [[noreturn]] void malformed() const {
    fail(ErrorKind::kModel, name_, ": not a SentencePiece model: malformed protobuf");
  }

  uint64_t varint() {
    uint64_t value = 0;
    for (int shift = 0; shift < 64; shift += 7) {
      const auto byte = static_cast<uint8_t>(take(1)[0]);
      value |= static_cast<uint64_t>(byte & 0x7F) << shift;
      if (byte < 0x80) return value;
    }
    malformed();
  }

  uint64_t fixed(size_t size) {
    const std::string_view bytes = take(size);
    uint64_t value = 0;
    for (size_t i = size; i-- > 0;) value = (value << 8) | static_cast<uint8_t>(bytes[i]);
    return value;
  }

  std::string_view take(uint64_t size) {
    if (size > left_.size()) malformed();
    const std::string_view bytes = left_.substr(0, static_cast<size_t>(size));
    left_.remove_prefix(static_cast<size_t>(size));
    return bytes;
  }

  std::string_view left_;
  const std::string& name_;
};

void expect_wire(const Field& field, Wire wire, const std::string& name, const char* what) {
  ENGINE_CHECK(field.wire == wire, ErrorKind::kModel, name, ": ", what,
               " has the wrong type in the protobuf");
}

bool read_bool(const Field& field, const std::string& name, const char* what) {
  expect_wire(field, Wire::kVarint, name, what);
  return field.value != 0;
}

bool is_byte_piece(std::string_view text) {
  constexpr std::string_view kDigits = "0123456789ABCDEF";
  return text.size() == 6 && text.starts_with("<0x") && text[5] == '>' &&
         kDigits.find(text[3]) != std::string_view::npos &&
         kDigits.find(text[4]) != std::string_view::npos;
}

SpmPiece read_piece(std::string_view message, size_t id, const std::string& name) {
  SpmPiece piece;
  FieldReader reader(message, name);
  while (const std::optional<Field> field = reader.next()) {
    if (field->number == 1) {
      expect_wire(*field, Wire::kBytes, name, "piece");
      piece.text = field->bytes;
    } else if (field->number == 2) {
      expect_wire(*field, Wire::kFixed32, name, "score");
      const auto bits = static_cast<uint32_t>(field->value);
      float score = 0;
      std::memcpy(&score, &bits, sizeof(score));
      ENGINE_CHECK(std::isfinite(score), ErrorKind::kModel, name, ": the score of piece ", id,
                   " is not finite");
    } else if (field->number == 3) {
      expect_wire(*field, Wire::kVarint, name, "type");
      ENGINE_CHECK(field->value >= 1 && field->value <= 6, ErrorKind::kModel, name, ": piece ", id,
                   " has the unknown type ", field->value);
      piece.type = static_cast<SpmPieceType>(field->value);
    }
  }
  ENGINE_CHECK(!piece.text.empty() && is_utf8(piece.text), ErrorKind::kModel, name, ": piece ", id,
               " is empty or not UTF-8");
  ENGINE_CHECK(piece.type != SpmPieceType::kByte || is_byte_piece(piece.text), ErrorKind::kModel,
               name, ": byte piece ", id, " is ", quote(piece.text), ", expected <0xHH>");
  return piece;
}

void read_trainer_spec(std::string_view message, const std::string& name, SpmModel& model) {
  uint64_t kind = 1;  // the default of the protobuf
  FieldReader reader(message, name);
  while (const std::optional<Field> field = reader.next()) {
    if (field->number == 3) {
      expect_wire(*field, Wire::kVarint, name, "model_type");
      kind = field->value;
    } else if (field->number == 24) {
      ENGINE_CHECK(!read_bool(*field, name, "treat_whitespace_as_suffix"), ErrorKind::kUnsupported,
                   name, ": treat_whitespace_as_suffix is not supported");
    } else if (field->number == 35) {
      model.byte_fallback = read_bool(*field, name, "byte_fallback");
    } else if (field->number == 44) {
      expect_wire(*field, Wire::kBytes, name, "unk_surface");
      ENGINE_CHECK(is_utf8(field->bytes), ErrorKind::kModel, name, ": unk_surface is not UTF-8");
      model.unknown_surface = field->bytes;
    }
  }
  constexpr const char* kKinds[] = {"unigram", "BPE", "word", "char"};
  ENGINE_CHECK(kind >= 1 && kind <= 4, ErrorKind::kModel, name, ": unknown model type ", kind);
  ENGINE_CHECK(kind == 2, ErrorKind::kUnsupported, name, ": model type \"", kKinds[kind - 1],
               "\" is not supported, only BPE is");
}

uint32_t read_u32(std::string_view bytes, size_t at) {
  uint32_t value = 0;
  std::memcpy(&value, bytes.data() + at, sizeof(value));
  return value;
}

// Where the children of a trie node are, to be xor-ed with the node (Darts: 21 bits, scaled by 256
// where bit 9 is set).
size_t offset_of(uint32_t unit) {
  return static_cast<size_t>(unit >> 10) << ((unit & (1u << 9)) >> 6);
}

// The character map: u32 size of a Darts double-array trie, the trie, then NUL-terminated texts
// that its values are offsets of. A node's children are at node ^ offset ^ byte, its value at
// node ^ offset; so all of them are inside when the last of the 256 is. Returns the trie.
std::vector<uint32_t> check_character_map(std::string_view map, const std::string& name) {
  if (map.empty()) return {};
  const auto bad = [&name](const char* why) {
    fail(ErrorKind::kModel, name, ": the character map is malformed: ", why);
  };
  if (map.size() < 4) bad("no size");
  const size_t trie_bytes = read_u32(map, 0);
  if (trie_bytes > map.size() - 4 || trie_bytes % 4 != 0) bad("trie size");
  const std::string_view trie = map.substr(4, trie_bytes);
  const std::string_view texts = map.substr(4 + trie_bytes);
  if (texts.empty() || texts.back() != '\0' || !is_utf8(texts)) bad("texts");
  const size_t count = trie_bytes / 4;
  if (count == 0 || count % 256 != 0) bad("trie size");
  std::vector<uint32_t> units(count);
  std::memcpy(units.data(), trie.data(), trie_bytes);
  for (size_t node = 0; node < count; ++node) {
    const uint32_t unit = units[node];
    if (unit >> 31) {
      if (node == 0 || (unit & 0x7FFFFFFFu) >= texts.size()) bad("value");
      continue;
    }
    const size_t offset = offset_of(unit);
    if (((node ^ offset) | 0xFF) >= count) bad("offset");
    const bool has_leaf = (unit >> 8) & 1;
    if (has_leaf && (units[node ^ offset] & 0x7FFFFFFFu) >= texts.size()) bad("leaf");
  }
  return units;
}

void read_normalizer_spec(std::string_view message, const std::string& name, SpmModel& model) {
  FieldReader reader(message, name);
  while (const std::optional<Field> field = reader.next()) {
    if (field->number == 2) {
      expect_wire(*field, Wire::kBytes, name, "precompiled_charsmap");
      model.character_map = check_character_map(field->bytes, name);
    } else if (field->number == 3) {
      model.add_dummy_prefix = read_bool(*field, name, "add_dummy_prefix");
    } else if (field->number == 4) {
      model.remove_extra_whitespaces = read_bool(*field, name, "remove_extra_whitespaces");
    }
  }
}

void refuse_denormalizer(std::string_view message, const std::string& name) {
  FieldReader reader(message, name);
  while (const std::optional<Field> field = reader.next()) {
    ENGINE_CHECK(field->number != 2 || field->bytes.empty(), ErrorKind::kUnsupported, name,
                 ": a denormalizer is not supported");
  }
}

// A tiktoken file is lines of base64, a space and a rank; any text that is no protobuf at all gets
// the same hint, because only such a file is ever called tokenizer.model.
bool looks_like_tiktoken(std::string_view content) {
  const std::string_view head = content.substr(0, 256);
  return !head.empty() && std::all_of(head.begin(), head.end(), [](char c) {
    return (c >= ' ' && c <= '~') || c == '\n' || c == '\r';
  });
}

}  // namespace

bool SpmModel::starts_mapped_text(std::string_view scalar) const {
  if (character_map.empty()) return false;
  size_t node = offset_of(character_map[0]);
  for (const char c : scalar) {
    const auto byte = static_cast<uint8_t>(c);
    node ^= byte;
    const uint32_t unit = character_map[node];
    if ((unit & 0x800000FFu) != byte) return false;
    node ^= offset_of(unit);
  }
  return true;
}

SpmModel parse_spm_model(std::string_view content, const std::string& name) {
  ENGINE_CHECK(!content.empty(), ErrorKind::kModel, name, ": the file is empty");
  ENGINE_CHECK(!looks_like_tiktoken(content), ErrorKind::kModel, name,
               ": not a SentencePiece model but text, as tiktoken rank files are: "
               "the tokenizer.json of the same checkpoint is needed");
  SpmModel model;
  bool trainer_seen = false;
  FieldReader reader(content, name);
  while (const std::optional<Field> field = reader.next()) {
    if (field->number == 1) {
      expect_wire(*field, Wire::kBytes, name, "pieces");
      ENGINE_CHECK(model.pieces.size() <= size_t{kMaxTokenId}, ErrorKind::kModel, name,
                   ": more than ", kMaxTokenId, " pieces");
      model.pieces.push_back(read_piece(field->bytes, model.pieces.size(), name));
    } else if (field->number == 2) {
      expect_wire(*field, Wire::kBytes, name, "trainer_spec");
      // The parts of a message that comes in several are merged, the last kind counts; nothing
      // writes such a file, and one that does it is not trusted.
      ENGINE_CHECK(!trainer_seen, ErrorKind::kModel, name, ": two trainer specs");
      trainer_seen = true;
      read_trainer_spec(field->bytes, name, model);
    } else if (field->number == 3) {
      expect_wire(*field, Wire::kBytes, name, "normalizer_spec");
      read_normalizer_spec(field->bytes, name, model);
    } else if (field->number == 5) {
      expect_wire(*field, Wire::kBytes, name, "denormalizer_spec");
      refuse_denormalizer(field->bytes, name);
    }
  }
  ENGINE_CHECK(trainer_seen, ErrorKind::kModel, name,
               ": not a SentencePiece model: no trainer spec");
  ENGINE_CHECK(!model.pieces.empty(), ErrorKind::kModel, name, ": the model has no pieces");
  return model;
}

}  // namespace engine
