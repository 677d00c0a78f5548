// Ids and texts of tiny tokenizers of every kind against the reference libraries, as recorded in
// tests/engine/data/tokenizers by tools/make_tokenizer_goldens.py.
#include <string>
#include <vector>

#include "tests/engine/tokenizer_support.h"

namespace engine::test {
namespace {

using nlohmann::json;
using Ids = std::vector<int32_t>;

std::string from_hex(const std::string& hex) {
  std::string bytes;
  for (size_t i = 0; i < hex.size(); i += 2) {
    bytes.push_back(static_cast<char>(std::stoi(hex.substr(i, 2), nullptr, 16)));
  }
  return bytes;
}

TEST_CASE("tokenizer.json gives the ids of the reference for every kind and case") {
  size_t compared = 0;
  for (const json& variant : goldens().at("variants")) {
    CAPTURE(variant.at("name").get<std::string>());
    const auto tokenizer = load_document(compose(variant));
    const json& cases = goldens().at(variant.at("few") ? "few_cases" : "cases");
    REQUIRE(variant.at("ids").size() == cases.size());
    for (size_t i = 0; i < cases.size(); ++i, ++compared) {
      CAPTURE(cases[i].get<std::string>());
      CHECK(tokenizer->encode(cases[i].get<std::string>(), false) == variant["ids"][i].get<Ids>());
    }
    for (size_t i = 0; i < variant.at("bos_ids").size(); ++i) {
      CAPTURE(cases[i].get<std::string>());
      CHECK(tokenizer->encode(cases[i].get<std::string>(), true) ==
            variant["bos_ids"][i].get<Ids>());
    }
  }
  CHECK(compared > 800);
}

TEST_CASE("tokenizer.json decodes as the reference, whole and streamed") {
  size_t compared = 0;
  for (const json& variant : goldens().at("variants")) {
    CAPTURE(variant.at("name").get<std::string>());
    const auto tokenizer = load_document(compose(variant));
    for (const json& golden : variant.at("decoded")) {
      const auto ids = golden.at("ids").get<Ids>();
      CAPTURE(golden.at("ids").dump());
      CHECK(tokenizer->decode(ids) == golden.at("skip").get<std::string>());
      CHECK(tokenizer->decode(ids, SpecialTokens::kKeep) == golden.at("keep").get<std::string>());
      CHECK(stream_text(*tokenizer, ids) == golden.at("skip").get<std::string>());
      CHECK(stream_text(*tokenizer, ids, SpecialTokens::kKeep) ==
            golden.at("keep").get<std::string>());
      ++compared;
    }
  }
  CHECK(compared > 130);
}

TEST_CASE("tokenizer.model gives the ids and texts of the reference") {
  for (const json& golden : goldens().at("sentencepiece")) {
    const auto file = golden.at("file").get<std::string>();
    CAPTURE(file);
    const auto tokenizer = load_tokenizer(golden_directory() / file);
    const json& cases = goldens().at("cases");
    REQUIRE(golden.at("ids").size() == cases.size());
    for (size_t i = 0; i < cases.size(); ++i) {
      CAPTURE(cases[i].get<std::string>());
      const auto expected = golden["ids"][i].get<Ids>();
      CHECK(tokenizer->encode(cases[i].get<std::string>(), false) == expected);
      Ids with_bos = {golden.at("bos").get<int32_t>()};
      with_bos.insert(with_bos.end(), expected.begin(), expected.end());
      CHECK(tokenizer->encode(cases[i].get<std::string>(), true) == with_bos);
    }
    const json& byte_cases = goldens().at("byte_cases");
    for (size_t i = 0; i < byte_cases.size(); ++i) {
      CAPTURE(byte_cases[i].get<std::string>());
      CHECK(tokenizer->encode(from_hex(byte_cases[i].get<std::string>()), false) ==
            golden.at("byte_ids")[i].get<Ids>());
    }
    for (const json& decoded : golden.at("decoded")) {
      const auto ids = decoded.at("ids").get<Ids>();
      CAPTURE(decoded.at("ids").dump());
      CHECK(tokenizer->decode(ids) == decoded.at("skip").get<std::string>());
      CHECK(stream_text(*tokenizer, ids) == decoded.at("skip").get<std::string>());
    }
    CHECK(tokenizer->bos_id() == golden.at("bos").get<int32_t>());
    CHECK(tokenizer->eos_ids() == Ids{golden.at("eos").get<int32_t>()});
  }
}

}  // namespace
}  // namespace engine::test
