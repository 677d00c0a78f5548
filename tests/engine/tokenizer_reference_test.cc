// Real tokenizers, from the optional reference data: published vectors, files that must be refused,
// and encode-decode on random Unicode.
#include <sstream>
#include <string>
#include <vector>

#include "tests/engine/tokenizer_support.h"
#include "tests/support/testdata.h"

namespace engine::test {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using Ids = std::vector<int32_t>;

// GPT-2 comes as a vocabulary and a list of merges: the tokenizer.json that they make.
std::unique_ptr<Tokenizer> load_gpt2(const fs::path& directory) {
  json merges = json::array();
  std::istringstream lines(read_all(directory / "vocab.bpe"));
  for (std::string line; std::getline(lines, line);) {
    if (!line.empty()) merges.push_back(line);
  }
  const json byte_level = {{"type", "ByteLevel"}, {"add_prefix_space", false}};
  return load_document(
      {{"added_tokens", {{{"id", 50256}, {"content", "<|endoftext|>"}, {"special", true}}}},
       {"normalizer", nullptr},
       {"pre_tokenizer", byte_level},
       {"post_processor", byte_level},
       {"decoder", byte_level},
       {"model",
        {{"type", "BPE"},
         {"vocab", json::parse(read_all(directory / "encoder.json"))},
         {"merges", merges}}}});
}

std::unique_ptr<Tokenizer> load_reference(const fs::path& root, const std::string& name) {
  if (name == "gpt2") return load_gpt2(root / name);
  if (name == "mistral-v1-spm") return load_tokenizer(root / name / "tokenizer.model.v1");
  return load_tokenizer(root / name);
}

// The texts of a vector file; each ends with a line of its own.
std::vector<std::string> read_texts(const fs::path& path) {
  constexpr std::string_view kEnd = "\n__ggml_vocab_test__\n";
  const std::string content = read_all(path);
  std::vector<std::string> texts;
  size_t at = 0;
  for (size_t end; (end = content.find(kEnd, at)) != std::string::npos; at = end + kEnd.size()) {
    texts.push_back(content.substr(at, end - at));
  }
  CHECK(at == content.size());
  return texts;
}

void check_vectors(const char* vectors, const char* name) {
  const auto root = testdata("tokenizers");
  if (!root) return;
  const auto tokenizer = load_reference(*root, name);
  const std::vector<std::string> texts = read_texts(*root / concat("vectors-", vectors, ".inp"));
  std::istringstream lines(read_all(*root / concat("vectors-", vectors, ".out")));
  size_t matched = 0;
  for (const std::string& text : texts) {
    std::string line;
    REQUIRE(std::getline(lines, line));
    std::istringstream numbers(line);
    const Ids expected{std::istream_iterator<int32_t>(numbers), {}};
    CAPTURE(text);
    const Ids found = tokenizer->encode(text, false);
    CHECK(found == expected);
    matched += found == expected ? 1 : 0;
  }
  CHECK(matched == 46);
}

TEST_CASE("llama-spm vectors: 46 of 46") { check_vectors("llama-spm", "llama2-spm"); }
TEST_CASE("llama-bpe vectors: 46 of 46") { check_vectors("llama-bpe", "llama3-json"); }
TEST_CASE("gpt-2 vectors: 46 of 46") { check_vectors("gpt-2", "gpt2"); }

// What a kind loses by its own definition: U+2581 and the space are one character to Llama 2.
std::string as_decoded(const std::string& text, bool metaspace) {
  constexpr std::string_view kSpaceSymbol = "\xE2\x96\x81";
  std::string result;
  size_t at = 0;
  for (size_t hit; metaspace && (hit = text.find(kSpaceSymbol, at)) != std::string::npos;) {
    result.append(text, at, hit - at).push_back(' ');
    at = hit + kSpaceSymbol.size();
  }
  return result.append(text, at);
}

TEST_CASE("encode and decode give random Unicode back, whole and streamed") {
  const auto root = testdata("tokenizers");
  if (!root) return;
  for (const char* name :
       {"llama2-spm", "mistral-v1-spm", "phi-3-mini-json", "llama3-json", "gpt2"}) {
    CAPTURE(name);
    const std::string_view kind = name;
    const bool metaspace = kind != "llama3-json" && kind != "gpt2";
    const auto tokenizer = load_reference(*root, name);
    std::mt19937 random(11);
    for (int round = 0; round < 400; ++round) {
      const std::string text = random_text(random, random() % 80);
      const std::string expected = as_decoded(text, metaspace);
      CAPTURE(text);
      const Ids ids = tokenizer->encode(text, true);
      CHECK(tokenizer->decode(ids) == expected);
      CHECK(stream_text(*tokenizer, ids) == expected);
    }
  }
}

TEST_CASE("every malformed reference file is refused as a bad model") {
  const auto root = testdata("tokenizers/malformed");
  if (!root) return;
  size_t files = 0;
  for (const auto& entry : fs::directory_iterator(*root)) {
    const std::string content = read_all(entry.path());
    CAPTURE(entry.path().string());
    CHECK(load_error(entry.path()).kind == ErrorKind::kModel);
    CHECK(load_error(entry.path()).message.find(entry.path().string()) == 0);
    // And under the names that a checkpoint has.
    for (const char* name : {"tokenizer.model", "tokenizer.json"}) {
      const TempDir directory;
      directory.write(name, content);
      const LoadError error = load_error(directory.path());
      CHECK(error.kind == ErrorKind::kModel);
      CHECK(error.message.find(name) != std::string::npos);
    }
    ++files;
  }
  CHECK(files == 5);
}

TEST_CASE("a tiktoken rank file is refused with a hint at tokenizer.json") {
  const auto path = testdata("tokenizers/llama3-tiktoken/llama3_tokenizer.model");
  if (!path) return;
  const LoadError error = load_error(*path);
  CHECK(error.kind == ErrorKind::kModel);
  CHECK(error.message.find("tokenizer.json") != std::string::npos);
}

TEST_CASE("a unigram model is refused as unsupported, by name") {
  const auto path = testdata("tokenizers/unigram-refuse/test_model.model");
  if (!path) return;
  const LoadError error = load_error(*path);
  CHECK(error.kind == ErrorKind::kUnsupported);
  CHECK(error.message.find("unigram") != std::string::npos);
}

TEST_CASE("sizes, BOS and EOS of the reference tokenizers") {
  const auto root = testdata("tokenizers");
  if (!root) return;
  struct Row {
    const char* name;
    int32_t base, all, bos;  // bos -1: none is added
    Ids eos;
  };
  const Row rows[] = {{"llama2-spm", 32000, 32000, 1, {2}},
                      {"mistral-v1-spm", 32000, 32000, 1, {2}},
                      {"phi-3-mini-json", 32000, 32011, -1, {}},
                      {"llama3-json", 128000, 128256, 128000, {}},
                      {"gpt2", 50257, 50257, -1, {}}};
  for (const Row& row : rows) {
    CAPTURE(row.name);
    const auto tokenizer = load_reference(*root, row.name);
    CHECK(tokenizer->base_vocab_size() == row.base);
    CHECK(tokenizer->vocab_size() == row.all);
    CHECK(tokenizer->bos_id().value_or(-1) == row.bos);
    CHECK(tokenizer->eos_ids() == row.eos);
    const Ids empty = tokenizer->encode("", true);
    CHECK(empty == (row.bos < 0 ? Ids{} : Ids{row.bos}));
  }
}

}  // namespace
}  // namespace engine::test
