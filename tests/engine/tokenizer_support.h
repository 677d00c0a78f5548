// What the tokenizer suites share: files in a directory that goes away with the test, and the
// goldens of tests/engine/data/tokenizers.
#pragma once

#include <doctest/doctest.h>

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <memory>
#include <nlohmann/json.hpp>
#include <random>
#include <string>
#include <string_view>
#include <vector>

#include "engine/io/tokenizer.h"
#include "engine/io/utf8.h"
#include "kernels/core/check.h"
#include "tests/support/paths.h"
#include "tests/support/temp_dir.h"

namespace engine::test {

inline std::string read_all(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  REQUIRE_MESSAGE(file.good(), path.string());
  return {std::istreambuf_iterator<char>(file), {}};
}

inline std::filesystem::path golden_directory() {
  return source_dir() / "tests/engine/data/tokenizers";
}

inline const nlohmann::json& goldens() {
  static const nlohmann::json document =
      nlohmann::json::parse(read_all(golden_directory() / "goldens.json"));
  return document;
}

// The tokenizer.json of one variant of the goldens.
inline nlohmann::json compose(const nlohmann::json& variant) {
  nlohmann::json document = variant.at("parts");
  document["version"] = "1.0";
  document["model"] = goldens().at("models").at(variant.at("model").get<std::string>());
  document["model"].update(variant.at("model_patch"));
  return document;
}

inline nlohmann::json compose_named(const std::string& name) {
  for (const nlohmann::json& variant : goldens().at("variants")) {
    if (variant.at("name") == name) return compose(variant);
  }
  FAIL("no golden variant ", name);
  return {};
}

inline std::unique_ptr<Tokenizer> load_document(const nlohmann::json& document) {
  const TempDir directory;
  directory.write("tokenizer.json", document.dump());
  return load_tokenizer(directory.path());
}

// The error that loading `path` gives, or an empty string (which no check expects).
struct LoadError {
  ErrorKind kind{};
  std::string message;
};
inline LoadError load_error(const std::filesystem::path& path) {
  try {
    load_tokenizer(path);
  } catch (const Error& error) {
    return {error.kind(), error.what()};
  }
  return {};
}

// The text of a stream fed id by id.
inline std::string stream_text(const Tokenizer& tokenizer, const std::vector<int32_t>& ids,
                               SpecialTokens special = SpecialTokens::kSkip) {
  StreamDecoder decoder(tokenizer, special);
  std::string text;
  for (const int32_t id : ids) {
    const std::string part = decoder.push(id);
    CHECK_MESSAGE(is_utf8(part), "a part of a stream splits a character");
    text.append(part);
  }
  return text + decoder.flush();
}

// A random Unicode text: half ASCII, spaces and line ends, the rest from every plane.
inline std::string random_text(std::mt19937& random, size_t scalars) {
  const auto below = [&random](uint32_t n) { return static_cast<char32_t>(random() % n); };
  std::string text;
  for (size_t i = 0; i < scalars; ++i) {
    char32_t scalar = 0;
    switch (random() % 8) {
      case 0:
        scalar = U" \n\t\r"[below(4)];
        break;
      case 1:
      case 2:
      case 3:
        scalar = below(0x80);
        break;
      case 4:
        scalar = 0x80 + below(0x780);
        break;
      case 5:
        scalar = 0x800 + below(0xD000);
        break;
      case 6:
        scalar = 0xE000 + below(0x2000);
        break;
      default:
        scalar = 0x10000 + below(0x100000);
        break;
    }
    append_utf8(scalar, text);
  }
  return text;
}

}  // namespace engine::test
