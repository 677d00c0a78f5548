// Any text in, any file in: only ids, text or an Error may come out.
#include <algorithm>
#include <string>
#include <vector>

#include "engine/io/byte_level.h"
#include "tests/engine/tokenizer_support.h"

namespace engine::test {
namespace {

using nlohmann::json;
using Ids = std::vector<int32_t>;

// One tokenizer of each kind that the goldens hold.
std::vector<std::unique_ptr<Tokenizer>> load_kinds() {
  std::vector<std::unique_ptr<Tokenizer>> kinds;
  for (const char* name : {"llama2", "metaspace first", "unknown left out", "llama3", "gpt-2"}) {
    kinds.push_back(load_document(compose_named(name)));
  }
  for (const char* name : {"plain.model", "folding.model"}) {
    kinds.push_back(load_tokenizer(golden_directory() / name));
  }
  return kinds;
}

std::string lossy(std::string_view bytes) {
  std::string text;
  Utf8Stream stream;
  stream.push(bytes, text);
  stream.finish(text);
  return text;
}

TEST_CASE("all texts of one and two bytes are encoded and decoded to valid UTF-8") {
  for (const auto& tokenizer : load_kinds()) {
    for (int first = 0; first < 256; ++first) {
      for (int second = -1; second < 256; ++second) {
        std::string text(1, static_cast<char>(first));
        if (second >= 0) text.push_back(static_cast<char>(second));
        const Ids ids = tokenizer->encode(text, false);
        const std::string decoded = tokenizer->decode(ids);
        if (!is_utf8(decoded)) {
          CAPTURE(first);
          CAPTURE(second);
          FAIL("not UTF-8");
        }
      }
    }
  }
}

TEST_CASE("a byte-level vocabulary keeps bytes that are not UTF-8") {
  for (const char* name : {"llama3", "gpt-2"}) {
    const auto tokenizer = load_document(compose_named(name));
    std::mt19937 random(3);
    for (int round = 0; round < 2000; ++round) {
      std::string bytes;
      for (size_t n = random() % 12; n > 0; --n) bytes.push_back(static_cast<char>(random()));
      std::string back;
      for (const int32_t id : tokenizer->encode(bytes, false)) {
        // Pieces spell bytes in the alphabet; the decoder of one piece is not text yet.
        back += *tokenizer->piece(id);
      }
      std::string expected;
      for (const char byte : bytes)
        append_utf8(byte_level_char(static_cast<uint8_t>(byte)), expected);
      CHECK(back == expected);
      CHECK(tokenizer->decode(tokenizer->encode(bytes, false)) == lossy(bytes));
    }
  }
}

TEST_CASE("byte fallback encodes a byte that is not UTF-8 as itself") {
  const auto tokenizer = load_document(compose_named("llama2"));
  const int32_t byte_ff = *tokenizer->token_id("<0xFF>");
  const int32_t byte_c3 = *tokenizer->token_id("<0xC3>");
  const Ids ids = tokenizer->encode("\xFF\xC3", false);
  REQUIRE(ids.size() == 3);  // the prefix, then the bytes
  CHECK(ids[1] == byte_ff);
  CHECK(ids[2] == byte_c3);
  CHECK(tokenizer->decode(ids) == "\xEF\xBF\xBD\xEF\xBF\xBD");
}

TEST_CASE("a stream of random ids is the text of the whole, and no part splits a character") {
  for (const auto& tokenizer : load_kinds()) {
    std::mt19937 random(5);
    const auto size = static_cast<uint32_t>(tokenizer->vocab_size());
    for (int round = 0; round < 1500; ++round) {
      Ids ids;
      for (size_t n = random() % 16; n > 0; --n) {
        ids.push_back(static_cast<int32_t>(random() % (round % 2 ? size : 270)));
      }
      for (const SpecialTokens special : {SpecialTokens::kSkip, SpecialTokens::kKeep}) {
        CHECK(stream_text(*tokenizer, ids, special) == tokenizer->decode(ids, special));
      }
    }
  }
}

TEST_CASE("a primed stream continues the prompt") {
  for (const auto& tokenizer : load_kinds()) {
    const Ids prompt = tokenizer->encode("The river", true);
    const Ids all = tokenizer->encode("The river the mill", true);
    StreamDecoder decoder(*tokenizer);
    decoder.prime(prompt);
    std::string text;
    REQUIRE(all.size() > prompt.size());
    REQUIRE(Ids(all.begin(), all.begin() + static_cast<int>(prompt.size())) == prompt);
    for (size_t i = prompt.size(); i < all.size(); ++i) text += decoder.push(all[i]);
    text += decoder.flush();
    CHECK(text == " the mill");
  }
}

TEST_CASE("a character that the prompt began is completed by the stream") {
  const auto tokenizer = load_document(compose_named("gpt-2"));
  const Ids ids = tokenizer->encode("\xF0\x9F\xA6\x99", false);  // not in the small vocabulary
  REQUIRE(ids.size() >= 2);
  StreamDecoder decoder(*tokenizer);
  decoder.prime({ids.data(), 1});
  std::string text;
  for (size_t i = 1; i < ids.size(); ++i) text += decoder.push(ids[i]);
  CHECK(text == "\xF0\x9F\xA6\x99");
  CHECK(decoder.flush().empty());
}

TEST_CASE("an id outside the vocabulary is a usage error with both numbers") {
  for (const auto& tokenizer : load_kinds()) {
    for (const int32_t id : {-1, tokenizer->vocab_size(), INT32_MAX, INT32_MIN}) {
      CHECK_FALSE(tokenizer->contains(id));
      try {
        tokenizer->decode(Ids{id});
        FAIL("decoded id ", id);
      } catch (const Error& error) {
        const std::string message = error.what();
        CHECK(error.kind() == ErrorKind::kUsage);
        CHECK(message.find(std::to_string(id)) != std::string::npos);
        CHECK(message.find(std::to_string(tokenizer->vocab_size())) != std::string::npos);
      }
    }
  }
}

// Loads a file that may be bad, and uses it when it is not.
void try_tokenizer(const std::filesystem::path& path, size_t& loaded) {
  try {
    const auto tokenizer = load_tokenizer(path);
    ++loaded;
    const Ids ids = tokenizer->encode("<s>The old mill \xF0\x9F\x99\x82\xFF 123 <mask>", true);
    const std::string text = tokenizer->decode(ids, SpecialTokens::kKeep);
    CHECK(is_utf8(text));
  } catch (const Error& error) {
    const bool expected =
        error.kind() == ErrorKind::kModel || error.kind() == ErrorKind::kUnsupported;
    CHECK_MESSAGE(expected, error.what());
    CHECK(std::string_view(error.what()).find('\n') == std::string_view::npos);
  }
}

// A random place of a JSON document.
json& random_place(json& document, std::mt19937& random) {
  json* at = &document;
  while (at->is_structured() && !at->empty() && random() % 8 != 0) {
    auto child = at->begin();
    std::advance(child, random() % at->size());
    at = &*child;
  }
  return *at;
}

json random_value(std::mt19937& random) {
  switch (random() % 12) {
    case 0:
      return nullptr;
    case 1:
      return true;
    case 2:
      return -1;
    case 3:
      return 1e300;
    case 4:
      return "";
    case 5:
      return "ByteLevel";
    case 6:
      return "(((";
    case 7:
      return json::array();
    case 8:
      return json::object();
    case 9:
      return 9223372036854775807ull;
    case 10:
      return random() % 700;
    default:
      return "\xE2\x96\x81";
  }
}

TEST_CASE("mutated tokenizer.json documents load or are refused") {
  const TempDir directory;
  std::mt19937 random(17);
  size_t loaded = 0;
  const std::vector<std::string> names = {
      "llama2", "metaspace first split",       "llama3",
      "gpt-2",  "strip and regex normalisers", "split Contiguous"};
  for (int round = 0; round < 3000; ++round) {
    json document = compose_named(names[random() % names.size()]);
    for (size_t changes = 1 + random() % 3; changes > 0; --changes) {
      json& place = random_place(document, random);
      if (random() % 4 != 0 || !place.is_structured() || place.empty()) {
        place = random_value(random);
      } else {
        auto child = place.begin();
        std::advance(child, random() % place.size());
        place.erase(child);
      }
    }
    try_tokenizer(directory.write("tokenizer.json", document.dump()), loaded);
  }
  CHECK(loaded > 100);  // not every change breaks a file, or the mutator is too coarse
  CHECK(loaded < 2900);
}

TEST_CASE("mutated and cut files of bytes load or are refused") {
  std::mt19937 random(19);
  size_t loaded = 0;
  const TempDir directory;
  const std::string files[] = {compose_named("llama2").dump(), compose_named("llama3").dump(),
                               read_all(golden_directory() / "plain.model"),
                               read_all(golden_directory() / "folding.model")};
  for (int round = 0; round < 4000; ++round) {
    std::string content = files[random() % 4];
    if (random() % 4 == 0) content.resize(random() % content.size());
    for (size_t changes = random() % 4; changes > 0 && !content.empty(); --changes) {
      // Half of the changes near the ends, where the structure is.
      const size_t span = random() % 2 ? content.size() : std::min<size_t>(content.size(), 600);
      const size_t at = random() % 2 ? random() % span : content.size() - 1 - random() % span;
      content[at] = static_cast<char>(random());
    }
    try_tokenizer(directory.write("tokenizer.any", content), loaded);
  }
  CHECK(loaded > 100);
}

TEST_CASE("a document nested 100000 deep is refused") {
  const TempDir directory;
  for (const char* open :
       {"[", "{\"a\":", "{\"model\":{\"vocab\":{\"a\":[", "{\"model\":{\"merges\":[["}) {
    std::string content = "{\"x\":";
    while (content.size() < 600'000) content += open;
    CHECK(load_error(directory.write("tokenizer.json", content)).kind == ErrorKind::kModel);
  }
}

}  // namespace
}  // namespace engine::test
