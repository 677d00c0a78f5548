// generation_config.json: what is present counts, what is malformed is refused.
#include "engine/model/generation_config.h"

#include <doctest/doctest.h>

#include <string>
#include <vector>

#include "tests/support/outcome.h"
#include "tests/support/temp_dir.h"

namespace engine {
namespace {

using test::outcome_of;

GenerationConfig parse(const std::string& text) { return parse_generation_config(text, "g.json"); }

TEST_CASE("generation config: every field is read") {
  const GenerationConfig config = parse(
      "{\"do_sample\":true,\"temperature\":0.6,\"top_k\":50,\"top_p\":0.9,\"min_p\":0.05,"
      "\"repetition_penalty\":1.1,\"bos_token_id\":128000,\"eos_token_id\":[128001,128009],"
      "\"pad_token_id\":-1,\"max_length\":\"x\",\"transformers_version\":\"4.42\"}");
  CHECK(config.do_sample == true);
  CHECK(config.temperature == 0.6);
  CHECK(config.top_k == 50);
  CHECK(config.top_p == 0.9);
  CHECK(config.min_p == 0.05);
  CHECK(config.repetition_penalty == 1.1);
  CHECK(config.bos_id == 128000);
  CHECK(config.eos_ids == std::vector<std::int64_t>{128001, 128009});
  CHECK(parse("{\"eos_token_id\":2}").eos_ids == std::vector<std::int64_t>{2});
  CHECK(parse("{\"do_sample\":false,\"temperature\":0}").do_sample == false);
  CHECK(parse("{\"temperature\":1}").temperature == 1.0);
}

TEST_CASE("generation config: absent and null fields stay empty") {
  for (const char* text :
       {"{}",
        "{\"do_sample\":null,\"temperature\":null,\"top_k\":null,\"top_p\":null,\"min_p\":null,"
        "\"repetition_penalty\":null,\"bos_token_id\":null,\"eos_token_id\":null}"}) {
    const GenerationConfig config = parse(text);
    CHECK_FALSE(config.do_sample.has_value());
    CHECK_FALSE(config.temperature.has_value());
    CHECK_FALSE(config.top_k.has_value());
    CHECK_FALSE(config.top_p.has_value());
    CHECK_FALSE(config.min_p.has_value());
    CHECK_FALSE(config.repetition_penalty.has_value());
    CHECK_FALSE(config.bos_id.has_value());
    CHECK(config.eos_ids.empty());
  }
}

TEST_CASE("generation config: malformed fields are kModel, naming file and field") {
  const std::pair<const char*, std::vector<const char*>> fields[] = {
      {"do_sample", {"0", "1", "\"true\"", "[]"}},
      {"temperature", {"-1", "-0.1", "9223372036854775808", "\"1\"", "true", "NaN", "1e400"}},
      {"top_k", {"-1", "1.5", "9223372036854775808", "\"1\"", "NaN"}},
      {"top_p", {"-1", "1.0001", "9223372036854775808", "\"1\"", "NaN"}},
      {"min_p", {"-1", "1.0001", "9223372036854775808", "\"1\"", "NaN"}},
      {"repetition_penalty", {"0", "-1", "9223372036854775808", "\"1\"", "NaN"}},
      {"bos_token_id", {"-1", "1.0", "9223372036854775808", "\"1\"", "[1]", "NaN"}},
      {"eos_token_id", {"-1", "1.0", "9223372036854775808", "\"1\"", "[-1]", "[1,null]", "NaN"}}};
  for (const auto& [field, values] : fields) {
    for (const char* value : values) {
      const std::string text = "{\"" + std::string(field) + "\":" + value + "}";
      CAPTURE(text);
      const auto outcome = outcome_of([&] { parse(text); });
      CHECK(outcome.is(ErrorKind::kModel));
      CHECK(outcome.says("g.json: "));
    }
  }
  CHECK(outcome_of([] {
          parse("{\"top_k\":-1}");
        }).says("g.json: top_k: expected an integer in [0, 2147483647], found -1"));
  CHECK(outcome_of([] { parse("[]"); }).is(ErrorKind::kModel));
}

TEST_CASE("generation config: a directory without the file gives nothing") {
  const test::TempDir dir;
  CHECK_FALSE(load_generation_config(dir.path()).has_value());
  dir.write("generation_config.json", "{\"top_k\":7}");
  const auto config = load_generation_config(dir.path());
  REQUIRE(config.has_value());
  CHECK(config->top_k == 7);
  dir.write("generation_config.json", "{");
  CHECK(outcome_of([&] { load_generation_config(dir.path()); }).is(ErrorKind::kModel));
}

}  // namespace
}  // namespace engine
