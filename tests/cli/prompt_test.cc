// The prompt, from wherever it comes, and its ids.
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "tests/cli/generate_run.h"
#include "tests/support/random_checkpoint.h"

namespace engine::test {
namespace {

using Ids = std::vector<int>;

// The ids that the tokenizer of RandomCheckpoint gives to bytes that no merge joins.
Ids byte_ids(const std::string& text) {
  Ids ids = {0};
  for (const char c : text) ids.push_back(2 + static_cast<unsigned char>(c));
  return ids;
}

Ids tokenize(const RandomCheckpoint& checkpoint, const std::vector<std::string>& arguments,
             const std::optional<std::string>& input = std::nullopt) {
  std::vector<std::string> all = {checkpoint.name(), "--tokenize"};
  all.insert(all.end(), arguments.begin(), arguments.end());
  Command command = bare_command(all);
  if (input) {
    command.standard_input = Stdin::kPipe;
    command.input = *input;
  }
  const Result result = run(command);
  REQUIRE_MESSAGE(result.exit_code == 0, result.describe());
  CHECK_MESSAGE(result.err.empty(), result.describe());
  REQUIRE(result.out.ends_with("]\n"));
  return nlohmann::json::parse(result.out).get<Ids>();
}

TEST_CASE("--tokenize prints the ids of the prompt") {
  const RandomCheckpoint checkpoint;
  CHECK(tokenize(checkpoint, {"-p", "the"}) == Ids{0, 259});
  CHECK(tokenize(checkpoint, {"-p", "he the"}) == Ids{0, 258, 260});
  CHECK(tokenize(checkpoint, {"-p", "the", "--no-bos"}) == Ids{259});
  CHECK(tokenize(checkpoint, {"-p", "ab"}) == byte_ids("ab"));
  CHECK(tokenize(checkpoint, {"-p", "</s>"}) == Ids{0, 1});
  CHECK(tokenize(checkpoint, {"-p", "[a]"}) == byte_ids("[a]"));
  CHECK(tokenize(checkpoint, {"-p", "-5"}) == byte_ids("-5"));
  CHECK(tokenize(checkpoint, {"-p", "--bogus"}) == byte_ids("--bogus"));
  CHECK(tokenize(checkpoint, {"-p", ""}) == Ids{0});
  CHECK(tokenize(checkpoint, {"-p", "", "--no-bos"}).empty());
}

TEST_CASE("an empty -p is the prompt even where something is piped") {
  const RandomCheckpoint checkpoint;
  CHECK(tokenize(checkpoint, {"-p", ""}, "piped") == Ids{0});
}

TEST_CASE("a prompt is the same by flag, by file, by dash and by pipe") {
  const RandomCheckpoint checkpoint;
  const std::string text = "one\ntwo\r\n  the end \n";
  const Ids expected = tokenize(checkpoint, {"-p", text});
  checkpoint.write_file("prompt.txt", text);
  CHECK(tokenize(checkpoint, {"-f", checkpoint.name() + "/prompt.txt"}) == expected);
  CHECK(tokenize(checkpoint, {"-f", "-"}, text) == expected);
  CHECK(tokenize(checkpoint, {}, text) == expected);
  // And for a run, through --json.
  Command piped = generate_command(checkpoint.path(), {"-n", "1", "--json"});
  piped.standard_input = Stdin::kPipe;
  piped.input = text;
  CHECK(nlohmann::json::parse(run(piped).out)["prompt_ids"] == expected);
}

TEST_CASE("bytes that are not text are encoded as they are") {
  const RandomCheckpoint checkpoint;
  const std::string bytes("a\0b\xff\xc3\xed\xa0\x80\xf5", 9);
  CHECK(tokenize(checkpoint, {}, bytes) == byte_ids(bytes));
  std::string all;
  for (int i = 128; i < 256; ++i) all += static_cast<char>(i);
  checkpoint.write_file("bytes", all);
  CHECK(tokenize(checkpoint, {"-f", checkpoint.name() + "/bytes"}).size() == 129);
}

TEST_CASE("--stdin-json prints an array of arrays, with and without BOS") {
  const RandomCheckpoint checkpoint;
  Command command = bare_command({checkpoint.name(), "--tokenize", "--stdin-json"});
  command.standard_input = Stdin::kPipe;
  command.input = "[\"the\", \"\", \"\\u0061\\u00e9\"]";
  Result result = run(command);
  CHECK(result.out == "[[0,259],[0],[0,99,197,171]]\n");
  command.arguments.push_back("--no-bos");
  result = run(command);
  CHECK(result.out == "[[259],[],[99,197,171]]\n");
  for (const std::string input : {"", "{}", "[1]", "[\"a\"", "\"a\"", "[[\"a\"]]", "null",
                                  "[\"\xff\"]", "[\"a\"] x", "[\"\\ud800\"]"}) {
    CAPTURE(input);
    command.input = input;
    check_refused_at_once(run(command), 2, {"--stdin-json"});
  }
  command.input = std::string(100000, '[');
  check_refused_at_once(run(command), 2, {"--stdin-json"});
}

TEST_CASE("--tokenize gives the ids of the reference with no more than the tokenizer's file") {
  const std::filesystem::path root = source_dir() / "tests/engine/data/tokenizers";
  std::ifstream in(root / "goldens.json");
  const nlohmann::json goldens = nlohmann::json::parse(in);
  int compared = 0;
  for (const nlohmann::json& golden : goldens.at("sentencepiece")) {
    const TempDir directory;
    std::filesystem::copy(root / golden.at("file").get<std::string>(),
                          directory.path() / "tokenizer.model");
    Command command =
        bare_command({directory.path().string(), "--tokenize", "--stdin-json", "--no-bos"});
    command.standard_input = Stdin::kPipe;
    command.input = goldens.at("cases").dump();
    Result result = run(command);
    REQUIRE_MESSAGE(result.exit_code == 0, result.describe());
    CHECK(nlohmann::json::parse(result.out) == golden.at("ids"));
    command.arguments.pop_back();
    const nlohmann::json with_bos = nlohmann::json::parse(run(command).out);
    for (std::size_t i = 0; i < with_bos.size(); ++i, ++compared) {
      REQUIRE_FALSE(with_bos[i].empty());
      CHECK(with_bos[i][0] == golden.at("bos"));
      CHECK(with_bos[i].size() == golden.at("ids")[i].size() + 1);
    }
  }
  CHECK(compared > 20);
}

TEST_CASE("--prompt-tokens takes ids and refuses everything else") {
  const RandomCheckpoint checkpoint;
  const nlohmann::json result =
      generate_json(checkpoint.path(), {"--prompt-tokens", "0,259,269", "-n", "1"});
  CHECK(result["prompt_ids"] == Ids{0, 259, 269});
  for (const std::string list : {"", ",", "1,", ",1", "1,,2", "a", "1 2", "1, 2", "-1", "+1", "1.0",
                                 "0x1", "2147483648", "99999999999999999999", "1;2"}) {
    CAPTURE(list);
    check_refused_at_once(generate(checkpoint.path(), {"--prompt-tokens", list}), 2,
                          {"--prompt-tokens"});
  }
  for (const std::string list : {"270", "0,1,270", "2147483647"}) {
    CAPTURE(list);
    check_refused_at_once(generate(checkpoint.path(), {"--prompt-tokens", list}), 2, {"270"});
    check_refused_at_once(generate(checkpoint.path(), {"--prompt-tokens", list, "--dry-run"}), 2,
                          {"270"});
  }
}

TEST_CASE("-p with nothing in it is BOS alone and refused where there is none") {
  const RandomCheckpoint checkpoint;
  CHECK(generate_json(checkpoint.path(), {"-p", "", "-n", "1"})["prompt_ids"] == Ids{0});
  check_refused_at_once(generate(checkpoint.path(), {"-p", "", "-n", "1", "--no-bos"}), 2,
                        {"empty"});
  // Nothing piped in: the same.
  CHECK(generate_json(checkpoint.path(), {"-n", "1"})["prompt_ids"] == Ids{0});
  // A tokenizer whose template adds nothing.
  RandomCheckpoint bare;
  nlohmann::json tokenizer = nlohmann::json::parse(bare.tokenizer);
  tokenizer["post_processor"] = nullptr;
  bare.tokenizer = tokenizer.dump();
  bare.write();
  check_refused_at_once(generate(bare.path(), {"-p", "", "-n", "1"}), 2, {"empty"});
  CHECK(generate_json(bare.path(), {"-p", "the", "-n", "1"})["prompt_ids"] == Ids{259});
}

TEST_CASE("a closed standard input is not taken for another file") {
  const RandomCheckpoint checkpoint;
  Command command = generate_command(checkpoint.path(), {"-n", "1"});
  command.standard_input = Stdin::kClosed;
  check_refused_at_once(run(command), 1, {"standard input"});
  command.arguments.insert(command.arguments.end(), {"-p", "the"});
  CHECK(run(command).exit_code == 0);
}

}  // namespace
}  // namespace engine::test
