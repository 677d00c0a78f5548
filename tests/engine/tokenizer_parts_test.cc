// The parts of a tokenizer one by one: UTF-8, the byte-level alphabet, regular expressions, the
// choice of the file, tokenizer_config.json, and the errors that name what is wrong.
#include <set>
#include <string>
#include <vector>

#include "engine/io/byte_level.h"
#include "engine/io/regex.h"
#include "tests/engine/tokenizer_support.h"

namespace engine::test {
namespace {

using nlohmann::json;
using Ids = std::vector<int32_t>;

constexpr const char* kReplacement = "\xEF\xBF\xBD";

// The strict definition by ranges of scalars, independent of the table of lead bytes.
bool is_utf8_by_value(const std::string& bytes) {
  const auto at = [&bytes](size_t i) {
    return static_cast<uint32_t>(static_cast<uint8_t>(bytes[i]));
  };
  for (size_t i = 0; i < bytes.size();) {
    const uint32_t lead = at(i);
    const size_t length = lead < 0x80 ? 1 : lead < 0xC0 ? 0 : lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;
    if (length == 0 || lead > 0xF7 || i + length > bytes.size()) return false;
    uint32_t value = length == 1 ? lead : lead & (0x7Fu >> length);
    for (size_t k = 1; k < length; ++k) {
      if ((at(i + k) & 0xC0) != 0x80) return false;
      value = (value << 6) | (at(i + k) & 0x3F);
    }
    const uint32_t least[] = {0, 0, 0x80, 0x800, 0x10000};
    if (value < least[length] || value > 0x10FFFF || (value >= 0xD800 && value < 0xE000)) {
      return false;
    }
    i += length;
  }
  return true;
}

TEST_CASE("UTF-8 is told from what is not, against the definition by value") {
  std::mt19937 random(31);
  // Bytes near the limits of the ranges, so that short strings are often nearly valid.
  const std::string bytes =
      "A\x7F\x80\x8F\x90\x9F\xA0\xBF\xC1\xC2\xDF\xE0\xE1\xEC\xED\xEE\xEF\xF0"
      "\xF1\xF4\xF5\xFF";
  size_t valid = 0;
  for (int round = 0; round < 200'000; ++round) {
    std::string text;
    for (size_t n = 1 + random() % 4; n > 0; --n) text.push_back(bytes[random() % bytes.size()]);
    const bool expected = is_utf8_by_value(text);
    valid += expected ? 1 : 0;
    if (is_utf8(text) != expected) {
      CAPTURE(text);
      CHECK(is_utf8(text) == expected);
    }
  }
  CHECK(valid > 1000);
}

TEST_CASE("every scalar is written and read back") {
  size_t wrong = 0;
  for (char32_t scalar = 0; scalar <= 0x10FFFF; ++scalar) {
    if (scalar >= 0xD800 && scalar < 0xE000) continue;
    std::string text = "x";
    append_utf8(scalar, text);
    const Utf8Scalar back = read_utf8(std::string_view(text).substr(1));
    const bool good = back.valid && back.value == scalar && back.length == text.size() - 1 &&
                      last_scalar_start(text) == 1;
    wrong += good ? 0 : 1;
  }
  CHECK(wrong == 0);
}

TEST_CASE("a byte stream replaces maximal invalid subparts and holds an open character back") {
  struct Row {
    std::vector<std::string> pushes;
    std::string ready, all;
  };
  const std::string e_acute = "\xC3\xA9";
  const Row rows[] = {
      {{"a\xC3"}, "a", std::string("a") + kReplacement},
      {{"a\xC3", "\xA9z"}, "a" + e_acute + "z", "a" + e_acute + "z"},
      {{"\xF0\x9F", "\x99", "\x82"}, "\xF0\x9F\x99\x82", "\xF0\x9F\x99\x82"},
      {{"\xF0\x9F\x99"}, "", kReplacement},
      {{"\xE6\xB0", "x"}, std::string(kReplacement) + "x", std::string(kReplacement) + "x"},
      {{"\xFF\xFE"},
       std::string(kReplacement) + kReplacement,
       std::string(kReplacement) + kReplacement}};
  for (const Row& row : rows) {
    Utf8Stream stream;
    std::string text;
    for (const std::string& bytes : row.pushes) stream.push(bytes, text);
    CHECK(text == row.ready);
    stream.finish(text);
    CHECK(text == row.all);
  }
}

TEST_CASE("the byte-level alphabet is one to one and printable") {
  std::set<char32_t> seen;
  for (int byte = 0; byte < 256; ++byte) {
    const char32_t c = byte_level_char(static_cast<uint8_t>(byte));
    CHECK(seen.insert(c).second);
    CHECK_FALSE(is_white_space(c));
    CHECK(c > 0x20);
    std::string piece;
    append_utf8(c, piece);
    CHECK(byte_level_bytes(piece) == std::string(1, static_cast<char>(byte)));
  }
  CHECK(byte_level_char(' ') == 0x120);
  CHECK(byte_level_char('\n') == 0x10A);
  CHECK_FALSE(byte_level_bytes("a b").has_value());
  CHECK_FALSE(byte_level_bytes("\xE6\xB0\xB4").has_value());
}

std::vector<std::string> matches(const char* pattern, std::string_view text) {
  std::vector<std::string> found;
  for (const Span& span : Regex(pattern, "test").find_all(text)) {
    found.emplace_back(text.substr(span.begin, span.end - span.begin));
  }
  return found;
}

TEST_CASE("regular expressions mean what the reference's engine means") {
  using Found = std::vector<std::string>;
  CHECK(matches(R"(\s)", "a\xE1\xA0\x8E b\xC2\x85") == Found{" ", "\xC2\x85"});  // not U+180E
  CHECK(matches(R"([\s\d]+)", "1 2x\xE2\x80\xA8") == Found{"1 2", "\xE2\x80\xA8"});
  CHECK(matches(R"([^\S\n]+)", " \n\t") == Found{" ", "\t"});
  CHECK(matches(R"(^a)", "aa\naa") == Found{"a", "a"});      // ^ at each line
  CHECK(matches(R"(a.b$)", "a\rb\na\nb") == Found{"a\rb"});  // lines end in \n alone
  CHECK(matches(R"(\p{L}+)", "\xC3\xA9\xCC\x81t\xD0\xB6 1") == Found{"\xC3\xA9", "t\xD0\xB6"});
  CHECK(matches(R"((?i:'s))", "'S '\xC5\xBF") == Found{"'S", "'\xC5\xBF"});  // long s folds to s
  CHECK(matches(R"([]x]+)", "]x") == Found{"]x"});
  CHECK(matches(R"([[:alpha:]]+)", "ab1") == Found{"ab"});
  CHECK(matches("x*", "axx").size() == 3);  // empty, "xx", empty at the end
  CHECK(matches("b",
                "a\xFF"
                "b\xFF") == Found{"b"});
  CHECK(matches(R"(\w+(?!\S))", "ab\xFF") == Found{"ab"});  // an invalid byte ends the text
}

TEST_CASE("regular expressions that PCRE2 would read differently are refused") {
  for (const char* pattern : {R"(\h+)", R"(a{1,2}+)", "[a-z&&[aeiou]]", "[a[b]]"}) {
    CAPTURE(pattern);
    try {
      Regex(pattern, "the file");
      FAIL("accepted");
    } catch (const Error& error) {
      CHECK(error.kind() == ErrorKind::kUnsupported);
      CHECK(std::string_view(error.what()).starts_with("the file"));
    }
  }
  for (const char* pattern : {"(", "a\\", "[a", R"(\p{Nonsense})", "(?<=a+)b", R"(\C)", "[[:a"}) {
    CAPTURE(pattern);
    try {
      Regex(pattern, "the file");
      FAIL("accepted");
    } catch (const Error& error) {
      CHECK(error.kind() == ErrorKind::kModel);
    }
  }
}

TEST_CASE("a long text neither exhausts the limits of the regular expression nor the stack") {
  const std::string text(size_t{1} << 20, 'a');
  CHECK(matches(R"((?:a|b)+)", text) == std::vector<std::string>{text});
  CHECK(matches(R"((?:(a)|b)*c|\p{L})", std::string(1000, 'a')).size() == 1000);
}

TEST_CASE("the file of a directory is chosen, and told by content when given itself") {
  const std::string spm = read_all(golden_directory() / "plain.model");
  const std::string document = compose_named("llama3").dump();
  const TempDir directory;
  LoadError error = load_error(directory.path());
  CHECK(error.kind == ErrorKind::kModel);
  CHECK(error.message.find("tokenizer.json") != std::string::npos);
  CHECK(error.message.find("tokenizer.model") != std::string::npos);
  CHECK(load_error(directory.path() / "none").kind == ErrorKind::kModel);

  directory.write("tokenizer.model", spm);
  CHECK(load_tokenizer(directory.path())->vocab_size() == 600);
  directory.write("tokenizer.json", document);
  CHECK(load_tokenizer(directory.path())->vocab_size() != 600);
  CHECK(load_tokenizer(directory.write("any", " \n" + document))->bos_id().has_value());
  CHECK(load_tokenizer(directory.write("other", spm))->vocab_size() == 600);
}

TEST_CASE("tokenizer_config.json gives EOS, and BOS where the file itself says nothing") {
  const TempDir directory;
  directory.write("tokenizer.json", compose_named("gpt-2").dump());
  CHECK(load_tokenizer(directory.path())->eos_ids().empty());
  CHECK_FALSE(load_tokenizer(directory.path())->bos_id().has_value());

  directory.write("tokenizer_config.json",
                  R"({"bos_token": "<|begin|>", "eos_token": {"content": "<|end|>"},
                      "add_bos_token": true, "other": [1, null]})");
  auto tokenizer = load_tokenizer(directory.path());
  const Ids begin = {*tokenizer->token_id("<|begin|>")};
  CHECK(tokenizer->eos_ids() == Ids{*tokenizer->token_id("<|end|>")});
  CHECK(tokenizer->encode("", true) == begin);
  CHECK(tokenizer->encode("", false).empty());

  // A template decides, whatever the configuration says.
  directory.write("tokenizer.json", compose_named("llama3").dump());
  directory.write("tokenizer_config.json", R"({"add_bos_token": false, "eos_token": null})");
  tokenizer = load_tokenizer(directory.path());
  CHECK(tokenizer->encode("", true) == begin);
  CHECK(tokenizer->eos_ids().empty());

  for (const char* bad : {"[]", "{", R"({"eos_token": 3})", R"({"eos_token": "<none>"})",
                          R"({"eos_token": {}})", R"({"add_bos_token": 1})"}) {
    CAPTURE(bad);
    directory.write("tokenizer_config.json", bad);
    const LoadError error = load_error(directory.path());
    CHECK(error.kind == ErrorKind::kModel);
    CHECK(error.message.find("tokenizer_config.json") != std::string::npos);
  }
}

TEST_CASE("tokenizer.model puts BOS first unless the configuration says no") {
  const TempDir directory;
  directory.write("tokenizer.model", read_all(golden_directory() / "plain.model"));
  CHECK(load_tokenizer(directory.path())->encode("", true) == Ids{1});
  directory.write("tokenizer_config.json", R"({"add_bos_token": false, "eos_token": "</s>"})");
  CHECK(load_tokenizer(directory.path())->encode("", true).empty());
  CHECK(load_tokenizer(directory.path())->eos_ids() == Ids{2});
  directory.write("tokenizer_config.json", R"({"eos_token": "<0x0A>"})");
  CHECK(load_tokenizer(directory.path())->eos_ids().size() == 2);
}

TEST_CASE("a long run of unknown characters is one token of a model without byte fallback") {
  const auto tokenizer = load_tokenizer(golden_directory() / "folding.model");
  const Ids one = tokenizer->encode("the \xE1\x9A\xA0 mill", false);
  for (const size_t count : {2, 100, 255, 256, 257, 258, 1000, 5000}) {
    std::string run;
    for (size_t i = 0; i < count; ++i) run += i % 3 ? "\xE1\x9A\xA0" : "\xEA\x99\xAE\xFF";
    CAPTURE(count);
    CHECK(tokenizer->encode("the " + run + " mill", false) == one);
    CHECK(tokenizer->encode("the " + run + run + " mill", false) == one);
  }
}

TEST_CASE("leading spaces of decoded text go as the SentencePiece library takes them") {
  struct Row {
    const char* file;
    const char* spaces;     // two spaces and the word twice
    const char* after_bos;  // BOS, a space and the word
  };
  const Row rows[] = {{"plain.model", "  the the", " the"}, {"folding.model", "the the", "the"}};
  for (const Row& row : rows) {
    CAPTURE(std::string(row.file));
    const auto tokenizer = load_tokenizer(golden_directory() / row.file);
    const int32_t space = *tokenizer->token_id("\xE2\x96\x81");
    const int32_t the = *tokenizer->token_id("\xE2\x96\x81the");
    CHECK(tokenizer->decode(Ids{space, space, the, the}) == row.spaces);
    CHECK(tokenizer->decode(Ids{*tokenizer->bos_id(), space, the}) == row.after_bos);
  }
}

// What a change of the golden document `base` gives when it is loaded.
LoadError changed(const char* base, const char* pointer, const json& value) {
  json document = compose_named(base);
  document[json::json_pointer(pointer)] = value;
  const TempDir directory;
  return load_error(directory.write("tokenizer.json", document.dump()));
}

TEST_CASE("a component or option that is not supported is refused by name") {
  struct Row {
    const char* base;
    const char* pointer;
    json value;
    const char* named;
  };
  const Row rows[] = {
      {"llama2", "/model/type", "Unigram", "Unigram"},
      {"llama2", "/model/type", "WordPiece", "WordPiece"},
      {"llama2", "/model/dropout", 0.5, "dropout"},
      {"llama2", "/model/end_of_word_suffix", "</w>", "end_of_word_suffix"},
      {"llama2", "/model/continuing_subword_prefix", "##", "continuing_subword_prefix"},
      {"llama2", "/normalizer/normalizers/0/type", "NFKC", "NFKC"},
      {"gpt-2", "/pre_tokenizer/type", "Whitespace", "Whitespace"},
      {"gpt-2", "/post_processor", {{"type", "BertProcessing"}}, "BertProcessing"},
      {"gpt-2", "/decoder/type", "WordPiece", "WordPiece"},
      {"llama2", "/decoder/decoders/3", {{"type", "ByteFallback"}}, "ByteFallback"},
      {"llama2", "/decoder/decoders/0/pattern", {{"Regex", "a"}}, "regular expression"},
      {"llama3", "/pre_tokenizer/pretokenizers/0/behavior", "Shuffled", "Shuffled"},
      {"llama3", "/pre_tokenizer/pretokenizers/2", {{"type", "Digits"}}, "Digits"},
      {"metaspace first", "/pre_tokenizer/prepend_scheme", "last", "last"}};
  for (const Row& row : rows) {
    CAPTURE(row.pointer);
    const LoadError error = changed(row.base, row.pointer, row.value);
    CHECK(error.kind == ErrorKind::kUnsupported);
    CHECK(error.message.find(row.named) != std::string::npos);
    CHECK(error.message.find("tokenizer.json") != std::string::npos);
  }
}

TEST_CASE("a table or component that contradicts itself is refused as a bad model") {
  struct Row {
    const char* base;
    const char* pointer;
    json value;
    const char* named;
  };
  const Row rows[] = {
      {"llama2", "/model/vocab/new", 5, "id 5"},
      {"llama2", "/model/vocab/new", -1, "new"},
      {"llama2", "/model/vocab/new", 1 << 22, "new"},
      {"llama2", "/model/vocab/new", 3.5, "new"},
      {"llama2", "/model/vocab/new", "7", "new"},
      {"llama2", "/model/vocab/new", json::array(), "new"},
      {"llama2", "/model/vocab", json::object(), "empty"},
      {"llama2", "/model/vocab", json::array(), "vocab"},
      {"llama2", "/model/merges", json::object(), "merges"},
      {"llama2", "/model/merges/0", "onlyone", "entry 0"},
      {"llama2", "/model/merges/0", "a b c", "entry 0"},
      {"llama2", "/model/merges/0", json::array({"a"}), "entry 0"},
      {"llama2", "/model/merges/0", json::array({"a", 1}), "entry 0"},
      {"llama2", "/model/merges/0", json::array({"qqq", "a"}), "qqq"},
      {"llama2", "/model/merges/0", json::array({"a", "~"}), "~"},
      {"llama2", "/model/unk_token", "<none>", "<none>"},
      {"llama2", "/model/fuse_unk", 1, "fuse_unk"},
      {"llama2", "/model", 1, "model"},
      {"llama2", "/added_tokens", 1, "added_tokens"},
      {"llama2", "/added_tokens/0/id", 9, "<unk>"},
      {"llama2", "/added_tokens/0/id", 1, "added_tokens"},
      {"llama2", "/added_tokens/4/id", 591, "591"},
      {"llama2", "/added_tokens/4/content", "<mask>", "<mask>"},
      {"llama2", "/added_tokens/0/special", "yes", "special"},
      {"llama2", "/normalizer/normalizers/1/pattern", {{"String", ""}}, "pattern"},
      {"llama2", "/normalizer/normalizers/1/pattern", "x", "pattern"},
      {"llama2", "/decoder/decoders/3/content", "ab", "content"},
      {"llama2", "/decoder/decoders/3/start", -1, "start"},
      {"llama2", "/post_processor/single", json::array(), "single"},
      {"llama2", "/post_processor/special_tokens/<s>/ids/0", 100000, "100000"},
      {"llama2", "/post_processor/single/0/SpecialToken/id", "<none>", "<none>"},
      {"llama3", "/pre_tokenizer/pretokenizers/0/pattern/Regex", "(", "regular expression"},
      {"metaspace first", "/pre_tokenizer/replacement", "", "replacement"},
      {"metaspace first", "/pre_tokenizer/add_prefix_space", false, "add_prefix_space"}};
  for (const Row& row : rows) {
    CAPTURE(row.pointer);
    CAPTURE(row.value.dump());
    const LoadError error = changed(row.base, row.pointer, row.value);
    CHECK(error.kind == ErrorKind::kModel);
    CAPTURE(error.message);
    CHECK(error.message.find(row.named) != std::string::npos);
    CHECK(error.message.find("tokenizer.json") != std::string::npos);
  }
}

TEST_CASE("duplicate keys are refused, in the vocabulary too") {
  const TempDir directory;
  for (const char* content :
       {R"({"model": {"type": "BPE", "vocab": {"a": 0, "a": 1}, "merges": []}})",
        R"({"model": {"type": "BPE", "vocab": {"a": 0}, "vocab": {"b": 0}, "merges": []}})",
        R"({"model": {"type": "BPE", "vocab": {"a": 0}, "merges": [], "merges": []}})",
        R"({"model": {"type": "BPE", "type": "BPE", "vocab": {"a": 0}, "merges": []}})"}) {
    const LoadError error = load_error(directory.write("tokenizer.json", content));
    CHECK(error.kind == ErrorKind::kModel);
    CAPTURE(error.message);
    const bool named = error.message.find("duplicate key") != std::string::npos ||
                       error.message.find("occurs twice") != std::string::npos;
    CHECK(named);
  }
}

TEST_CASE("merges are taken as text or as pairs, with the head line of merges.txt") {
  json document = compose_named("gpt-2");
  const auto pairs = load_document(document);
  json lines = json::array({"#version: 0.2"});
  for (const json& merge : document["model"]["merges"]) {
    lines.push_back(merge[0].get<std::string>() + " " + merge[1].get<std::string>());
  }
  document["model"]["merges"] = lines;
  const auto text = load_document(document);
  const char* sentence = "The old river, and the wheel would sigh.";
  CHECK(text->encode(sentence, true) == pairs->encode(sentence, true));
  CHECK(text->encode(sentence, true).size() < std::string_view(sentence).size());
}

}  // namespace
}  // namespace engine::test
