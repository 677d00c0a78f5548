#include "engine/io/utf8.h"

namespace engine {
namespace {

uint8_t byte_at(std::string_view text, size_t i) { return static_cast<uint8_t>(text[i]); }

// What a lead byte promises: the length of its sequence and the range of its second byte.
struct Lead {
  uint32_t length;
  uint8_t second_low, second_high;
  uint8_t bits;  // payload of the lead byte
};

Lead classify_lead(uint8_t lead) {
  if (lead >= 0xC2 && lead <= 0xDF) return {2, 0x80, 0xBF, static_cast<uint8_t>(lead & 0x1F)};
  const uint8_t three = static_cast<uint8_t>(lead & 0x0F);
  if (lead == 0xE0) return {3, 0xA0, 0xBF, three};
  if (lead == 0xED) return {3, 0x80, 0x9F, three};
  if (lead >= 0xE1 && lead <= 0xEF) return {3, 0x80, 0xBF, three};
  const uint8_t four = static_cast<uint8_t>(lead & 0x07);
  if (lead == 0xF0) return {4, 0x90, 0xBF, four};
  if (lead == 0xF4) return {4, 0x80, 0x8F, four};
  if (lead >= 0xF1 && lead <= 0xF3) return {4, 0x80, 0xBF, four};
  return {0, 0, 0, 0};
}

}  // namespace

Utf8Scalar read_utf8(std::string_view text) {
  const uint8_t first = byte_at(text, 0);
  if (first < 0x80) return {first, 1, true, false};
  const Lead lead = classify_lead(first);
  if (lead.length == 0) return {0, 1, false, false};
  char32_t value = lead.bits;
  for (uint32_t i = 1; i < lead.length; ++i) {
    if (i >= text.size()) return {0, i, false, true};
    const uint8_t next = byte_at(text, i);
    const uint8_t low = i == 1 ? lead.second_low : 0x80;
    const uint8_t high = i == 1 ? lead.second_high : 0xBF;
    if (next < low || next > high) return {0, i, false, false};
    value = (value << 6) | (next & 0x3Fu);
  }
  return {value, lead.length, true, false};
}

size_t valid_utf8_prefix(std::string_view text) {
  size_t at = 0;
  while (at < text.size()) {
    if (byte_at(text, at) < 0x80) {
      ++at;
      continue;
    }
    const Utf8Scalar scalar = read_utf8(text.substr(at));
    if (!scalar.valid) break;
    at += scalar.length;
  }
  return at;
}

bool is_utf8(std::string_view text) { return valid_utf8_prefix(text) == text.size(); }

void append_utf8(char32_t scalar, std::string& out) {
  const auto put = [&out](char32_t byte) { out.push_back(static_cast<char>(byte)); };
  const auto tail = [&put, scalar](int shift) { put(0x80 | ((scalar >> shift) & 0x3F)); };
  if (scalar < 0x80) {
    put(scalar);
  } else if (scalar < 0x800) {
    put(0xC0 | (scalar >> 6));
    tail(0);
  } else if (scalar < 0x10000) {
    put(0xE0 | (scalar >> 12));
    tail(6);
    tail(0);
  } else {
    put(0xF0 | (scalar >> 18));
    tail(12);
    tail(6);
    tail(0);
  }
}

bool is_white_space(char32_t c) {
  return (c >= 0x09 && c <= 0x0D) || c == 0x20 || c == 0x85 || c == 0xA0 || c == 0x1680 ||
         (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F ||
         c == 0x3000;
}

size_t last_scalar_start(std::string_view text) {
  const size_t end = text.size();
  for (size_t length = 1; length <= 4 && length <= end; ++length) {
    const Utf8Scalar scalar = read_utf8(text.substr(end - length));
    if (scalar.valid && scalar.length == length) return end - length;
  }
  return end - 1;
}

void Utf8Stream::push(std::string_view bytes, std::string& out) {
  std::string joined;
  if (!held_.empty()) {
    joined = std::move(held_);
    joined.append(bytes);
    held_.clear();
    bytes = joined;
  }
  while (!bytes.empty()) {
    const size_t good = valid_utf8_prefix(bytes);
    out.append(bytes.substr(0, good));
    bytes.remove_prefix(good);
    if (bytes.empty()) return;
    const Utf8Scalar bad = read_utf8(bytes);
    if (bad.truncated) {
      held_ = bytes;
      return;
    }
    out.append(kReplacementCharacter);
    bytes.remove_prefix(bad.length);
  }
}

void Utf8Stream::finish(std::string& out) {
  if (!held_.empty()) out.append(kReplacementCharacter);
  held_.clear();
}

}  // namespace engine
