// What a generation prints: text, ids and JSON; where it stops; and that a seed repeats it.
#include <cstdint>
#include <cstdio>
#include <regex>
#include <set>
#include <string>
#include <vector>

#include "tests/cli/generate_run.h"
#include "tests/support/random_checkpoint.h"

namespace engine::test {
namespace {

using nlohmann::json;
using Ids = std::vector<std::int32_t>;

// 64-bit FNV-1a (Fowler, Noll, Vo) over the ids as little-endian bytes, in hexadecimal.
std::string hash_of(const Ids& ids) {
  std::uint64_t hash = 14695981039346656037u;
  for (const std::int32_t id : ids) {
    for (int i = 0; i < 4; ++i) {
      hash = (hash ^ (static_cast<std::uint32_t>(id) >> (8 * i) & 0xFFu)) * 1099511628211u;
    }
  }
  char text[17];
  std::snprintf(text, sizeof(text), "%016llx", static_cast<unsigned long long>(hash));
  return text;
}

// A model whose vocabulary is the tokenizer's, so that every id has a text.
CheckpointShape exact_shape() {
  CheckpointShape shape;
  shape.vocab = 261;
  return shape;
}

TEST_CASE("--json has every field of the contract with its type") {
  const RandomCheckpoint checkpoint;
  const Result result = generate(checkpoint.path(), {"-p", "the", "-n", "12", "--seed", "7",
                                                     "--top-k", "40", "--top-p", "0.9", "--json"});
  REQUIRE_MESSAGE(result.exit_code == 0, result.describe());
  CHECK(result.out.ends_with("}\n"));
  const json object = json::parse(result.out);
  CHECK(object.at("prompt_ids") == Ids{0, 259});
  CHECK(object.at("ids").is_array());
  CHECK(object.at("text").is_string());
  CHECK(std::set<std::string>{"eos", "stop", "length", "interrupted"}.contains(
      object.at("stop_reason").get<std::string>()));
  CHECK(object.at("seed") == 7);
  const json& sampling = object.at("sampling");
  CHECK(sampling.at("temperature").dump() == "0.8");
  CHECK(sampling.at("top_k") == 40);
  CHECK(sampling.at("top_p").dump() == "0.9");
  CHECK(sampling.at("min_p") == 0.0);
  CHECK(sampling.at("repetition_penalty") == 1.0);
  const json& timings = object.at("timings");
  for (const std::string name : {"load_s", "prefill_s", "decode_s", "tokens_per_s"}) {
    CHECK_MESSAGE(timings.at(name).is_number(), name);
    CHECK_MESSAGE(timings.at(name).get<double>() > 0, name);
  }
  CHECK(object.at("device") == "cpu");
  CHECK(object.at("dtype") == "f32");
  const json& memory = object.at("memory");
  std::size_t weights = 0;
  for (const StoredTensor& tensor : checkpoint.tensors) weights += tensor.bytes.size();
  CHECK(memory.at("weights_bytes") == weights);
  CHECK(memory.at("kv_bytes").get<std::size_t>() > 0);
  CHECK(memory.at("peak_bytes").get<std::size_t>() >=
        weights + memory.at("kv_bytes").get<std::size_t>());
  // Rates and hash follow from the rest.
  const auto ids = object.at("ids").get<Ids>();
  CHECK(result.says("ids hash " + hash_of(ids)));
  CHECK(
      timings.at("tokens_per_s").get<double>() ==
      doctest::Approx(static_cast<double>(ids.size() - 1) / timings.at("decode_s").get<double>()));
}

TEST_CASE("text mode prints the text of --json and its summary") {
  const RandomCheckpoint checkpoint(exact_shape());
  for (const std::string seed : {"1", "2", "3"}) {
    const std::vector<std::string> arguments = {"-p", "the", "-n", "40", "--seed", seed};
    const Result text = generate(checkpoint.path(), arguments);
    const json object = generate_json(checkpoint.path(), arguments);
    CHECK_MESSAGE(text.exit_code == 0, text.describe());
    CHECK(text.out == object.at("text").get<std::string>() + "\n");
    CHECK(text.says("seed " + std::string(seed)));
    CHECK(text.says(hash_of(object.at("ids").get<Ids>())));
    const std::string count = std::to_string(object.at("ids").size());
    CHECK(std::regex_search(text.err,
                            std::regex("\n" + count +
                                       " tokens, [0-9.]+ tok/s, [0-9.]+ GB/s of weights and cache, "
                                       "first token after [0-9.]+ ms, stop: \\w+, ids hash")));
    // Not a terminal: no colour, no progress bar.
    CHECK(text.err.find('\x1b') == std::string::npos);
    CHECK(text.err.find('\r') == std::string::npos);
  }
}

TEST_CASE("without a tokenizer ids come in and go out") {
  RandomCheckpoint checkpoint;
  checkpoint.remove_file("tokenizer.json");
  const std::vector<std::string> arguments = {"--prompt-tokens", "0,5,9", "-n", "12",
                                              "--seed",          "4"};
  const Result text = generate(checkpoint.path(), arguments);
  CHECK_MESSAGE(text.exit_code == 0, text.describe());
  CHECK(text.says("no tokenizer"));
  const json object = generate_json(checkpoint.path(), arguments);
  CHECK(text.out == id_list(object.at("ids").get<Ids>(), ' ') + "\n");
  check_refused_at_once(generate(checkpoint.path(), {"-p", "a"}), 3, {"tokenizer"});
}

TEST_CASE("a seed gives the same ids from process to process, eager or replayed") {
  CheckpointShape shape;
  shape.positions = 512;
  const RandomCheckpoint checkpoint(shape);
  // Past 256 positions the recorded step is another one.
  const std::vector<std::string> arguments = {"-p",     "the", "-n",          "300",
                                              "--seed", "11",  "--ignore-eos"};
  std::vector<std::string> eager = arguments;
  eager.push_back("--eager");
  const json first = generate_json(checkpoint.path(), arguments);
  CHECK(first.at("ids").size() == 300);
  for (int i = 0; i < 3; ++i) {
    CHECK(generate_json(checkpoint.path(), arguments).at("ids") == first.at("ids"));
    CHECK(generate_json(checkpoint.path(), eager).at("ids") == first.at("ids"));
  }
  std::vector<std::string> other = arguments;
  other[5] = "12";
  CHECK(generate_json(checkpoint.path(), other).at("ids") != first.at("ids"));
}

TEST_CASE("a random seed is printed and repeats the run") {
  const RandomCheckpoint checkpoint;
  const json first = generate_json(checkpoint.path(), {"-p", "the", "-n", "30"});
  const json second = generate_json(checkpoint.path(), {"-p", "the", "-n", "30"});
  CHECK(first.at("seed") != second.at("seed"));
  const json again = generate_json(
      checkpoint.path(),
      {"-p", "the", "-n", "30", "--seed", std::to_string(first.at("seed").get<std::uint64_t>())});
  CHECK(again.at("ids") == first.at("ids"));
  CHECK(generate_json(checkpoint.path(), {"-p", "the", "-n", "1", "--seed", "18446744073709551615"})
            .at("seed") == 18446744073709551615u);
}

TEST_CASE("the sampling line says each value and where it came from") {
  RandomCheckpoint checkpoint;
  const auto line = [&](const std::vector<std::string>& more) {
    std::vector<std::string> arguments = {"-p", "a", "-n", "1", "--seed", "5"};
    arguments.insert(arguments.end(), more.begin(), more.end());
    const Result result = generate(checkpoint.path(), arguments);
    REQUIRE_MESSAGE(result.exit_code == 0, result.describe());
    const std::size_t begin = result.err.find("sampling: ");
    REQUIRE(begin != std::string::npos);
    return result.err.substr(begin, result.err.find('\n', begin) - begin);
  };
  CHECK(line({}) ==
        "sampling: temperature 0.8 (default), top-k 200 (default), top-p 1 (default), min-p 0 "
        "(default), repetition-penalty 1 (default); seed 5");
  checkpoint.write_file("generation_config.json",
                        R"({"temperature": 0.6, "top_p": 0.9, "eos_token_id": [1]})");
  CHECK(line({"--top-p", "0.5", "--min-p", "0.1"}) ==
        "sampling: temperature 0.6 (generation_config.json), top-k 200 (default), top-p 0.5 "
        "(flag), min-p 0.1 (flag), repetition-penalty 1 (default); seed 5");
  checkpoint.write_file("generation_config.json",
                        R"({"do_sample": false, "temperature": 0.6, "top_k": 7})");
  CHECK(line({}).starts_with("sampling: temperature 0 (generation_config.json), top-k 7 "));
  CHECK(line({"--temperature", "1.5"}).starts_with("sampling: temperature 1.5 (flag), "));
  checkpoint.write_file("generation_config.json", R"({"top_p": 1.5})");
  check_refused_at_once(generate(checkpoint.path(), {"-p", "a"}), 3, {"top_p", "1.5"});
}

TEST_CASE("do_sample false is greedy: the seed has no say") {
  RandomCheckpoint checkpoint;
  checkpoint.write_file("generation_config.json", R"({"do_sample": false})");
  const auto ids = [&](const std::vector<std::string>& more) {
    std::vector<std::string> arguments = {"-p", "the", "-n", "30", "--ignore-eos"};
    arguments.insert(arguments.end(), more.begin(), more.end());
    return generate_json(checkpoint.path(), arguments).at("ids");
  };
  const json greedy = ids({"--seed", "1", "--temperature", "0"});
  CHECK(ids({"--seed", "1"}) == greedy);
  CHECK(ids({"--seed", "2"}) == greedy);
  CHECK(ids({"--seed", "2", "--temperature", "1"}) != greedy);
}

TEST_CASE("a token of the EOS set ends the text unless it is ignored") {
  RandomCheckpoint checkpoint;
  const std::vector<std::string> arguments = {"-p", "the",     "-n", "24",     "--temperature",
                                              "1",  "--top-k", "0",  "--seed", "9"};
  std::vector<std::string> ignoring = arguments;
  ignoring.push_back("--ignore-eos");
  const json all = generate_json(checkpoint.path(), ignoring);
  const auto ids = all.at("ids").get<Ids>();
  REQUIRE(ids.size() == 24);
  CHECK(all.at("stop_reason") == "length");
  // The first new id from the sixth on ends it; config.json and generation_config.json both count.
  std::size_t place = 6;
  while (std::find(ids.begin(), ids.begin() + static_cast<std::ptrdiff_t>(place), ids[place]) !=
         ids.begin() + static_cast<std::ptrdiff_t>(place)) {
    ++place;
  }
  const Ids expected(ids.begin(), ids.begin() + static_cast<std::ptrdiff_t>(place) + 1);
  for (const bool in_config : {true, false}) {
    CAPTURE(in_config);
    checkpoint.config["eos_token_id"] = in_config ? json(ids[place]) : json(1);
    checkpoint.write();
    checkpoint.write_file(
        "generation_config.json",
        json{{"eos_token_id", in_config ? json(1) : json({1, ids[place]})}}.dump());
    const json ended = generate_json(checkpoint.path(), arguments);
    CHECK(ended.at("stop_reason") == "eos");
    CHECK(ended.at("ids").get<Ids>() == expected);
    CHECK(generate_json(checkpoint.path(), ignoring).at("ids").get<Ids>() == ids);
  }
}

TEST_CASE("a stop string ends the text before it and is never shown in part") {
  const RandomCheckpoint checkpoint(exact_shape());
  const std::vector<std::string> arguments = {"-p",     "the", "-n",          "60",
                                              "--seed", "21",  "--ignore-eos"};
  const auto whole = generate_json(checkpoint.path(), arguments).at("text").get<std::string>();
  REQUIRE(whole.size() > 60);
  // Whole characters alone can be given on a command line.
  std::vector<std::size_t> characters;
  for (std::size_t i = 0; i < whole.size(); ++i) {
    if ((whole[i] & 0xC0) != 0x80) characters.push_back(i);
  }
  REQUIRE(characters.size() > 30);
  int used = 0;
  for (std::size_t i = 2; i + 5 < characters.size(); i += 3) {
    const std::size_t begin = characters[i], end = characters[i + 1 + i % 4];
    const std::string stop = whole.substr(begin, end - begin);
    if (stop.find('\0') != std::string::npos) continue;
    ++used;
    CAPTURE(stop);
    std::vector<std::string> stopped = arguments;
    stopped.insert(stopped.end(), {"--stop", "never there", "--stop", stop});
    const Result text = generate(checkpoint.path(), stopped);
    CHECK_MESSAGE(text.exit_code == 0, text.describe());
    const std::string expected = whole.substr(0, whole.find(stop));
    CHECK(text.out == expected + "\n");
    CHECK(text.says("stop: stop"));
    const json object = generate_json(checkpoint.path(), stopped);
    CHECK(object.at("text") == expected);
    CHECK(object.at("stop_reason") == "stop");
  }
  CHECK(used >= 5);
  // A stop string that the text ends within is text.
  std::vector<std::string> partial = arguments;
  partial.insert(partial.end(), {"--stop", whole.substr(whole.size() - 1) + " and more"});
  if (static_cast<unsigned char>(whole.back()) < 0x80) {
    CHECK(generate(checkpoint.path(), partial).out == whole + "\n");
  }
}

TEST_CASE("-n 0 fills the cache and prints no token") {
  const RandomCheckpoint checkpoint;
  const json object = generate_json(checkpoint.path(), {"-p", "the", "-n", "0"});
  CHECK(object.at("ids").empty());
  CHECK(object.at("text") == "");
  CHECK(object.at("stop_reason") == "length");
  CHECK(object.at("timings").at("tokens_per_s") == 0.0);
  const Result text = generate(checkpoint.path(), {"-p", "the", "-n", "0"});
  CHECK(text.exit_code == 0);
  CHECK(text.out == "\n");
  CHECK(text.says("0 tokens, prefill"));
  CHECK(text.says("cbf29ce484222325"));
}

TEST_CASE("a character of several tokens is printed whole") {
  // lm_head rows in favour of one byte after another: the text is "é" again and again.
  CheckpointShape shape = exact_shape();
  shape.layers = 1;
  RandomCheckpoint checkpoint(shape);
  for (StoredTensor& tensor : checkpoint.tensors) tensor.fill(0.0f);
  for (const char* norm : {"model.norm.weight", "model.layers.0.input_layernorm.weight",
                           "model.layers.0.post_attention_layernorm.weight"}) {
    checkpoint.tensor(norm).fill(1.0f);
  }
  // <s> and the second byte point along dimension 0, which asks for the first; that along 1.
  const int first = 2 + 0xC3, second = 2 + 0xA9;
  StoredTensor& embeddings = checkpoint.tensor("model.embed_tokens.weight");
  StoredTensor& head = checkpoint.tensor("lm_head.weight");
  embeddings.set(0, 1.0f);
  embeddings.set(second * shape.hidden + 0, 1.0f);
  embeddings.set(first * shape.hidden + 1, 1.0f);
  head.set(first * shape.hidden + 0, 1.0f);
  head.set(second * shape.hidden + 1, 1.0f);
  checkpoint.write();
  const auto text = [&](const char* count) {
    return generate(checkpoint.path(), {"-p", "", "-n", count, "--temperature", "0"}).out;
  };
  CHECK(text("6") == "ééé\n");
  CHECK(text("5") == "éé\xEF\xBF\xBD\n");  // a character that the end cuts
  CHECK(json::parse(
            generate(checkpoint.path(), {"-p", "", "-n", "5", "--temperature", "0", "--json"}).out)
            .at("text") == "éé\xEF\xBF\xBD");
}

TEST_CASE("--dtype chooses the type of weights, cache and report") {
  for (const DType stored : {DType::kF32, DType::kF16, DType::kBF16}) {
    CheckpointShape shape;
    shape.dtype = stored;
    const RandomCheckpoint checkpoint(shape);
    std::size_t elements = 0;
    for (const StoredTensor& tensor : checkpoint.tensors) {
      elements += static_cast<std::size_t>(tensor.size());
    }
    const json automatic = generate_json(checkpoint.path(), {"-p", "a", "-n", "5", "--seed", "1"});
    CHECK(automatic.at("dtype") == std::string(dtype_name(stored)));
    for (const DType dtype : {DType::kF32, DType::kF16, DType::kBF16}) {
      const std::string name(dtype_name(dtype));
      CAPTURE(name);
      const json object =
          generate_json(checkpoint.path(), {"-p", "a", "-n", "5", "--seed", "1", "--dtype", name});
      CHECK(object.at("dtype") == name);
      CHECK(object.at("memory").at("weights_bytes") == elements * dtype_size(dtype));
      if (dtype == stored) CHECK(object.at("ids") == automatic.at("ids"));
    }
  }
}

}  // namespace
}  // namespace engine::test
