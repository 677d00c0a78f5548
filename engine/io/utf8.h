// UTF-8: strict scanning of text that may hold any bytes, and lossy decoding of a byte stream.
//
// "Valid" is the definition of the Unicode Standard, table 3-7: no overlong forms, no surrogates,
// nothing above U+10FFFF. Free functions without state; thread-safe.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace engine {

// U+FFFD, the replacement character.
inline constexpr std::string_view kReplacementCharacter = "\xEF\xBF\xBD";

// What stands at the start of a text.
struct Utf8Scalar {
  char32_t value = 0;   // the Unicode scalar value; 0 where invalid
  uint32_t length = 0;  // bytes it takes; where invalid, the bytes of the maximal invalid prefix
  bool valid = false;
  bool truncated = false;  // invalid only because the text ends: more bytes could make it valid
};

// Reads the scalar at the start of `text`, which must not be empty. An invalid sequence is measured
// as the maximal subpart of a well-formed sequence (Unicode, section 3.9), at least one byte.
Utf8Scalar read_utf8(std::string_view text);

// True when all of `text` is valid UTF-8. The empty text is valid.
bool is_utf8(std::string_view text);

// Length in bytes of the longest valid prefix of `text`.
size_t valid_utf8_prefix(std::string_view text);

// Appends the UTF-8 form of `scalar`, which must be a Unicode scalar value.
void append_utf8(char32_t scalar, std::string& out);

// True for the characters of the Unicode property White_Space.
bool is_white_space(char32_t scalar);

// Start of the last scalar of `text` (which must not be empty); an invalid last byte counts as a
// scalar of its own.
size_t last_scalar_start(std::string_view text);

// Turns a stream of bytes into valid UTF-8 as it arrives: each maximal invalid subpart becomes one
// U+FFFD, an incomplete character at the end is held back until it is complete or `finish`.
class Utf8Stream {
 public:
  void push(std::string_view bytes, std::string& out);
  void finish(std::string& out);

 private:
  std::string held_;  // the incomplete last character: at most 3 bytes
};

}  // namespace engine
