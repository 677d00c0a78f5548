// The byte-level alphabet of GPT-2: each byte as one printable character, so that a JSON vocabulary
// can hold pieces that are not valid UTF-8.
//
// Bytes 0x21-0x7E, 0xA1-0xAC and 0xAE-0xFF stand for the characters of the same number, the other
// 68 bytes, in order, for U+0100 and up. Free functions over a constant table; thread-safe.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace engine {

// The character that stands for `byte`.
char32_t byte_level_char(uint8_t byte);

// The bytes that `piece` stands for, or nothing where one of its characters is not of the alphabet.
std::optional<std::string> byte_level_bytes(std::string_view piece);

}  // namespace engine
