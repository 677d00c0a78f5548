#include "bench/html.h"

#include <cmath>
#include <cstdio>

#include "engine/io/utf8.h"

namespace engine::bench {
namespace {

// Controls and noncharacters, which XML 1.0 forbids or discourages.
bool is_unprintable(char32_t scalar) {
  return scalar < 0x20 || (scalar >= 0x7F && scalar < 0xA0) || (scalar & 0xFFFE) == 0xFFFE;
}

}  // namespace

std::string escape(std::string_view text) {
  std::string out;
  while (!text.empty()) {
    const Utf8Scalar next = read_utf8(text);
    const std::string_view bytes = text.substr(0, next.length);
    text.remove_prefix(next.length);
    if (next.value == '\n' || next.value == '\t') {
      out += ' ';
    } else if (!next.valid || is_unprintable(next.value)) {
      out += kReplacementCharacter;
    } else if (next.value == '&') {
      out += "&amp;";
    } else if (next.value == '<') {
      out += "&lt;";
    } else if (next.value == '>') {
      out += "&gt;";
    } else if (next.value == '"') {
      out += "&quot;";
    } else if (next.value == '\'') {
      out += "&#39;";
    } else {
      out += bytes;
    }
  }
  return out;
}

std::string fixed(double value, int digits) {
  char text[400];  // the longest double
  std::snprintf(text, sizeof(text), "%.*f", digits, value);
  return text;
}

std::string figure(double value) {
  const double size = std::fabs(value);
  if (size == 0 || !std::isfinite(size)) return fixed(value, 0);
  if (size < 1e-4) {
    char text[32];
    std::snprintf(text, sizeof(text), "%.2e", value);
    return text;
  }
  const int whole = static_cast<int>(std::floor(std::log10(size))) + 1;  // digits before the point
  return fixed(value, whole >= 3 ? (whole == 3 ? 1 : 0) : 3 - whole);
}

std::string with_unit(double value, const std::string& unit) {
  return figure(value) + (unit.empty() ? "" : " " + unit);
}

}  // namespace engine::bench
