// Checks of flag values, with messages that say what was expected and found.
#pragma once

#include <CLI/CLI.hpp>
#include <charconv>
#include <cstdint>
#include <string>

#include "kernels/core/check.h"

namespace engine {

// A whole number in [least, most]; the message says what was expected and found.
template <typename Number = std::int64_t>
CLI::Validator whole_number(Number least, Number most) {
  const auto check = [=](const std::string& text) {
    Number value = 0;
    const char* end = text.data() + text.size();
    const auto [stop, error] = std::from_chars(text.data(), end, value);
    const bool whole = error == std::errc() && stop == end && !text.empty();
    if (whole && value >= least && value <= most) return std::string();
    return concat("expected a whole number from ", least, " to ", most, ", found ", text);
  };
  return CLI::Validator(check, "");
}

// A number; its range is checked with its meaning.
inline CLI::Validator real_number() {
  const auto check = [](const std::string& text) {
    double value = 0;
    const char* end = text.data() + text.size();
    const auto [stop, error] = std::from_chars(text.data(), end, value);
    const bool real = error == std::errc() && stop == end && !text.empty();
    return real ? std::string() : concat("expected a number, found ", text);
  };
  return CLI::Validator(check, "");
}

}  // namespace engine
