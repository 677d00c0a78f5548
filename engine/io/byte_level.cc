#include "engine/io/byte_level.h"

#include <array>

#include "engine/io/utf8.h"

namespace engine {
namespace {

constexpr char32_t kAlphabetEnd = 0x144;  // U+0100 + 68

struct Alphabet {
  std::array<char32_t, 256> chars{};
  std::array<int16_t, kAlphabetEnd> bytes{};  // -1: not of the alphabet
};

constexpr Alphabet make_alphabet() {
  Alphabet alphabet;
  alphabet.bytes.fill(-1);
  char32_t next = 0x100;
  for (char32_t byte = 0; byte < 256; ++byte) {
    const bool printable = (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte <= 0xAC) ||
                           (byte >= 0xAE && byte <= 0xFF);
    const char32_t c = printable ? byte : next++;
    alphabet.chars[byte] = c;
    alphabet.bytes[c] = static_cast<int16_t>(byte);
  }
  return alphabet;
}

constexpr Alphabet kAlphabet = make_alphabet();
static_assert(kAlphabet.chars[0xAD] == kAlphabetEnd - 1, "68 bytes are mapped past U+00FF");

}  // namespace

char32_t byte_level_char(uint8_t byte) { return kAlphabet.chars[byte]; }

std::optional<std::string> byte_level_bytes(std::string_view piece) {
  std::string bytes;
  bytes.reserve(piece.size());
  while (!piece.empty()) {
    const Utf8Scalar c = read_utf8(piece);
    if (!c.valid || c.value >= kAlphabetEnd || kAlphabet.bytes[c.value] < 0) return std::nullopt;
    bytes.push_back(static_cast<char>(kAlphabet.bytes[c.value]));
    piece.remove_prefix(c.length);
  }
  return bytes;
}

}  // namespace engine
