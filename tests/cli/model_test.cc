// Directories that are damaged, hostile or of a kind that the engine does not have: the exit code
// and the message, from outside.
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "tests/cli/generate_run.h"
#include "tests/support/random_checkpoint.h"
#include "tests/support/testdata.h"

namespace engine::test {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

Result generate_some(const RandomCheckpoint& checkpoint) {
  return generate(checkpoint.path(), {"-p", "the", "-n", "2"});
}

CheckpointShape sharded() {
  CheckpointShape shape;
  shape.shards = 3;
  return shape;
}

TEST_CASE("a checkpoint of one file and of shards give the same") {
  const RandomCheckpoint single, split(sharded());
  const std::vector<std::string> arguments = {"-p", "the", "-n", "12", "--seed", "1"};
  CHECK(generate_json(single.path(), arguments).at("ids") ==
        generate_json(split.path(), arguments).at("ids"));
}

TEST_CASE("tied embeddings and an lm_head beside them give the same") {
  CheckpointShape shape;
  shape.tied = true;
  RandomCheckpoint checkpoint(shape);
  const std::vector<std::string> arguments = {"-p", "the", "-n", "12", "--seed", "1"};
  const json without = generate_json(checkpoint.path(), arguments);
  checkpoint.add("lm_head.weight", {270, 32});
  checkpoint.write();
  CHECK(generate_json(checkpoint.path(), arguments).at("ids") == without.at("ids"));
}

TEST_CASE("tensors that old checkpoints carry and nobody needs are ignored") {
  RandomCheckpoint checkpoint;
  const json before = generate_json(checkpoint.path(), {"-p", "the", "-n", "8", "--seed", "1"});
  checkpoint.add("model.layers.0.self_attn.rotary_emb.inv_freq", {4});
  checkpoint.write();
  CHECK(generate_json(checkpoint.path(), {"-p", "the", "-n", "8", "--seed", "1"}).at("ids") ==
        before.at("ids"));
}

TEST_CASE("a spoilt set of files exits 3 and names the culprit") {
  struct Case {
    const char* what;
    std::function<void(RandomCheckpoint&)> spoil;
    std::vector<std::string> says;
  };
  const auto outside = [](RandomCheckpoint& c, const std::string& shard) {
    c.index["weight_map"]["model.norm.weight"] = shard;
    c.write();
  };
  const std::string middle = "model-2-of-3.safetensors";
  const Case cases[] = {
      {"a missing shard", [&](RandomCheckpoint& c) { c.remove_file(middle); }, {middle}},
      {"a shard in the directory above",
       [&](RandomCheckpoint& c) { outside(c, "../model-3-of-3.safetensors"); },
       {"../model", "expected the name of a file"}},
      {"a shard by its absolute path",
       [&](RandomCheckpoint& c) { outside(c, c.name() + "/model-3-of-3.safetensors"); },
       {"/model-3-of-3.safetensors", "expected the name of a file"}},
      {"a shard below",
       [&](RandomCheckpoint& c) { outside(c, "a/b.safetensors"); },
       {"a/b", "expected the name of a file"}},
      {"a shard without a name",
       [&](RandomCheckpoint& c) { outside(c, ""); },
       {"expected the name of a file"}},
      {"a shard called ..",
       [&](RandomCheckpoint& c) { outside(c, ".."); },
       {"..", "expected the name of a file"}},
      {"a link out of the directory",
       [&](RandomCheckpoint& c) {
         const fs::path target = c.path().string() + ".outside";
         fs::rename(c.path() / middle, target);
         fs::create_symlink(target, c.path() / middle);
       },
       {middle, "symbolic link"}},
      {"a link that leads nowhere",
       [&](RandomCheckpoint& c) {
         c.remove_file(middle);
         fs::create_symlink("nowhere", c.path() / middle);
       },
       {middle}},
      {"a shard that is a directory",
       [&](RandomCheckpoint& c) {
         c.remove_file(middle);
         fs::create_directory(c.path() / middle);
       },
       {middle}},
      {"a tensor in two shards",
       [&](RandomCheckpoint& c) {
         StoredTensor copy = c.tensor("model.norm.weight");
         copy.shard = 0;
         c.tensors.push_back(copy);
         c.index["weight_map"]["model.norm.weight"] = c.shard_name(0);
         c.write();
       },
       {"model.norm.weight", "is also in"}},
      {"a tensor in another shard than the index says",
       [&](RandomCheckpoint& c) { outside(c, middle); },
       {"model.norm.weight"}},
      {"a tensor that no shard has",
       [&](RandomCheckpoint& c) {
         c.index["weight_map"]["model.extra.weight"] = middle;
         c.write();
       },
       {"model.extra.weight"}},
      {"a tensor that the index lacks",
       [&](RandomCheckpoint& c) {
         c.index["weight_map"].erase("model.norm.weight");
         c.write();
       },
       {"model.norm.weight"}},
      {"an index that is no JSON",
       [&](RandomCheckpoint& c) { c.write_file("model.safetensors.index.json", "{"); },
       {"model.safetensors.index.json"}},
      {"an index without weight_map",
       [&](RandomCheckpoint& c) { c.write_file("model.safetensors.index.json", "{}"); },
       {"weight_map"}},
      {"an index whose weight_map is a list",
       [&](RandomCheckpoint& c) {
         c.write_file("model.safetensors.index.json", R"({"weight_map": ["a"]})");
       },
       {"weight_map"}},
      {"a shard cut short",
       [&](RandomCheckpoint& c) {
         fs::resize_file(c.path() / middle, fs::file_size(c.path() / middle) - 1);
       },
       {middle}},
      {"a shard that goes on",
       [&](RandomCheckpoint& c) {
         fs::resize_file(c.path() / middle, fs::file_size(c.path() / middle) + 1);
       },
       {middle}},
      {"an empty shard", [&](RandomCheckpoint& c) { c.write_file(middle, ""); }, {middle}},
  };
  for (const Case& c : cases) {
    CAPTURE(std::string(c.what));
    RandomCheckpoint checkpoint(sharded());
    c.spoil(checkpoint);
    const Result result = generate_some(checkpoint);
    check_refused_at_once(result, 3, {});
    for (const std::string& part : c.says) CHECK_MESSAGE(result.says(part), result.describe());
    fs::remove(checkpoint.path().string() + ".outside");
  }
}

TEST_CASE("a spoilt tensor exits 3 or 4 and is named") {
  struct Case {
    const char* what;
    std::function<void(RandomCheckpoint&)> spoil;
    int exit_code;
    std::vector<std::string> says;
  };
  const std::string up = "model.layers.1.mlp.up_proj.weight";
  const Case cases[] = {
      {"missing", [&](RandomCheckpoint& c) { c.drop(up); }, 3, {up, "missing"}},
      {"extra",
       [](RandomCheckpoint& c) { c.add("model.layers.2.extra", {4}); },
       3,
       {"model.layers.2.extra"}},
      {"a bias",
       [](RandomCheckpoint& c) { c.add("model.layers.0.self_attn.q_proj.bias", {32}); },
       3,
       {"q_proj.bias"}},
      {"a layer too many",
       [](RandomCheckpoint& c) { c.config["num_hidden_layers"] = 1; },
       3,
       {"model.layers.1"}},
      {"a layer too few",
       [](RandomCheckpoint& c) { c.config["num_hidden_layers"] = 3; },
       3,
       {"model.layers.2", "missing"}},
      {"transposed",
       [&](RandomCheckpoint& c) {
         c.tensor(up).shape = {32, 48};
       },
       3,
       {up, "[48, 32]", "[32, 48]"}},
      {"flattened", [&](RandomCheckpoint& c) { c.tensor(up).shape = {48 * 32}; }, 3, {up}},
      {"one dimension more",
       [&](RandomCheckpoint& c) {
         c.tensor(up).shape = {1, 48, 32};
       },
       3,
       {up}},
      {"of integers", [&](RandomCheckpoint& c) { c.tensor(up).dtype = "I32"; }, 4, {up, "I32"}},
      {"of doubles",
       [&](RandomCheckpoint& c) {
         c.tensor(up).dtype = "F64";
         c.tensor(up).bytes.resize(48 * 32 * 8);
       },
       4,
       {up, "F64"}},
      {"of a type that nobody knows",
       [&](RandomCheckpoint& c) { c.tensor(up).dtype = "F33"; },
       3,
       {up, "F33"}},
      {"of a dtype that the size belies",
       [&](RandomCheckpoint& c) { c.tensor(up).dtype = "BF16"; },
       3,
       {up}},
      {"called as another",
       [&](RandomCheckpoint& c) { c.tensor(up).name = "model.layers.0.mlp.up_proj.weight"; },
       3,
       {"model.layers.0.mlp.up_proj.weight"}},
      {"tied but not missing its head",
       [](RandomCheckpoint& c) { c.drop("lm_head.weight"); },
       3,
       {"lm_head.weight"}},
  };
  for (const Case& c : cases) {
    CAPTURE(std::string(c.what));
    RandomCheckpoint checkpoint;
    c.spoil(checkpoint);
    // Past write(), which only knows the sizes of floating-point types, the bytes decide.
    checkpoint.write();
    const Result result = generate_some(checkpoint);
    check_refused_at_once(result, c.exit_code, {});
    for (const std::string& part : c.says) CHECK_MESSAGE(result.says(part), result.describe());
  }
}

TEST_CASE("weights in another format only are refused with a hint") {
  for (const std::string name : {"pytorch_model.bin", "consolidated.00.pth", "model.pt",
                                 "ggml-model.gguf", "consolidated.safetensors"}) {
    CAPTURE(name);
    const RandomCheckpoint checkpoint;
    fs::rename(checkpoint.path() / "model.safetensors", checkpoint.path() / name);
    check_refused_at_once(generate_some(checkpoint), 3, {name, "safetensors"});
  }
  const RandomCheckpoint none;
  none.remove_file("model.safetensors");
  check_refused_at_once(generate_some(none), 3, {"model.safetensors", "neither"});
}

TEST_CASE("a field of config.json that is wrong exits 3 or 4 and is named") {
  struct Case {
    const char* field;
    json value;
    int exit_code;
  };
  const Case cases[] = {
      {"num_key_value_heads", 3, 3},
      {"num_key_value_heads", 1, 3},  // a divisor, against the tensors
      {"num_key_value_heads", 0, 3},
      {"num_attention_heads", 8, 3},
      {"num_attention_heads", 5, 3},
      {"num_attention_heads", -4, 3},
      {"head_dim", 16, 3},
      {"head_dim", 7, 3},
      {"hidden_size", 64, 3},
      {"hidden_size", 33, 3},
      {"hidden_size", "32", 3},
      {"hidden_size", 32.5, 3},
      {"hidden_size", std::uint64_t{1} << 63, 3},
      {"intermediate_size", 47, 3},
      {"intermediate_size", 0, 3},
      {"num_hidden_layers", 0, 3},
      {"num_hidden_layers", nullptr, 3},
      {"num_hidden_layers", 1000000000, 3},
      {"vocab_size", 271, 3},
      {"vocab_size", 0, 3},
      {"max_position_embeddings", 0, 3},
      {"rms_norm_eps", -1.0, 3},
      {"rms_norm_eps", "1e-5", 3},
      {"rope_theta", 0, 3},
      {"rope_theta", -10000.0, 3},
      {"rope_scaling", {{"type", "linear"}}, 3},
      {"rope_scaling", {{"type", "linear"}, {"factor", 0}}, 3},
      {"rope_scaling", {{"type", "dynamic"}, {"factor", 2.0}}, 4},
      {"rope_scaling", {{"rope_type", "longrope"}, {"factor", 2.0}}, 4},
      {"rope_scaling", "linear", 3},
      {"rope_parameters", {{"rope_type", "default"}, {"rope_theta", 500000.0}}, 3},  // a conflict
      {"tie_word_embeddings", "yes", 3},
      {"bos_token_id", 270, 3},
      {"eos_token_id", {1, -2}, 3},
      {"hidden_act", "gelu", 4},
      {"attention_bias", true, 4},
      {"mlp_bias", true, 4},
      {"model_type", "gpt2", 4},
      {"model_type", 5, 3},
      {"architectures", {"GPT2LMHeadModel"}, 4},
      {"quantization_config", {{"quant_method", "gptq"}}, 4},
  };
  for (const Case& c : cases) {
    CAPTURE(std::string(c.field));
    CAPTURE(c.value.dump());
    RandomCheckpoint checkpoint;
    checkpoint.config[c.field] = c.value;
    checkpoint.write();
    const Result result = generate_some(checkpoint);
    check_refused_at_once(result, c.exit_code, {});
    // Against a tensor it is the tensor that is named.
    CHECK_MESSAGE((result.says(c.field) || result.says("tensor ") || result.says("architecture") ||
                   result.says("rope_t")),
                  result.describe());
    CHECK(result.says("config.json") != result.says("tensor model"));
  }
}

TEST_CASE("a config.json that is no JSON object is refused") {
  const std::string deep(100000, '[');
  for (const std::string& text :
       {std::string(), std::string("{"), std::string("[]"), std::string("null"), deep,
        std::string("{\"hidden_size\": 1e400}"), std::string("{\"rope_theta\": NaN}"),
        std::string("{\"a\": \"\\ud800\"}"), std::string("{\"a\": 1, \"a\": 2}"),
        std::string("\xEF\xBB\xBF{}"), std::string("{\"a\": \"\xff\"}"), std::string(1, '\0')}) {
    CAPTURE(text.substr(0, 40));
    const RandomCheckpoint checkpoint;
    checkpoint.write_file("config.json", text);
    check_refused_at_once(generate_some(checkpoint), 3, {"config.json"});
    const RandomCheckpoint other;
    other.write_file("generation_config.json", text);
    check_refused_at_once(generate_some(other), 3, {"generation_config.json"});
  }
}

TEST_CASE("a tokenizer that is malformed exits 3 and a unigram one 4") {
  struct Case {
    const char* what;
    std::function<void(json&)> change;
    int exit_code;
  };
  const Case cases[] = {
      {"no model", [](json& t) { t.erase("model"); }, 3},
      {"no vocabulary", [](json& t) { t["model"].erase("vocab"); }, 3},
      {"an id below zero", [](json& t) { t["model"]["vocab"]["he"] = -1; }, 3},
      {"two tokens of one id", [](json& t) { t["model"]["vocab"]["he"] = 259; }, 3},
      {"a merge of an unknown token", [](json& t) { t["model"]["merges"][0] = "q zz"; }, 3},
      {"a merge of one part", [](json& t) { t["model"]["merges"][0] = "he"; }, 3},
      {"an unknown model", [](json& t) { t["model"]["type"] = "Unigram"; }, 4},
      {"WordPiece", [](json& t) { t["model"]["type"] = "WordPiece"; }, 4},
      {"an unknown pre-tokeniser", [](json& t) { t["pre_tokenizer"]["type"] = "Whitespaces"; }, 4},
      {"an unknown normaliser",
       [](json& t) {
         t["normalizer"] = {{"type", "Upside"}};
       },
       4},
      {"an added token of an impossible id", [](json& t) { t["added_tokens"][1]["id"] = -7; }, 3},
  };
  for (const Case& c : cases) {
    CAPTURE(std::string(c.what));
    RandomCheckpoint checkpoint;
    json tokenizer = json::parse(checkpoint.tokenizer);
    c.change(tokenizer);
    checkpoint.tokenizer = tokenizer.dump();
    checkpoint.write();
    for (const std::vector<std::string>& arguments :
         {std::vector<std::string>{"-p", "the"}, {"-p", "the", "--tokenize"}}) {
      check_refused_at_once(generate(checkpoint.path(), arguments), c.exit_code,
                            {"tokenizer.json"});
    }
  }
  for (const std::string text : {"", "{", "[]", "text", "\xff\xfe"}) {
    CAPTURE(text);
    const RandomCheckpoint checkpoint;
    checkpoint.write_file("tokenizer.json", text);
    check_refused_at_once(generate_some(checkpoint), 3, {"tokenizer.json"});
    fs::rename(checkpoint.path() / "tokenizer.json", checkpoint.path() / "tokenizer.model");
    check_refused_at_once(generate_some(checkpoint), 3, {"tokenizer.model"});
  }
  const RandomCheckpoint tiktoken;
  tiktoken.remove_file("tokenizer.json");
  tiktoken.write_file("tokenizer.model", "IQ== 0\nIg== 1\nIw== 2\n");
  check_refused_at_once(generate_some(tiktoken), 3, {"tokenizer.model", "tokenizer.json"});
}

TEST_CASE("a tokenizer larger than the model exits 3 unless added tokens alone are outside") {
  CheckpointShape small;
  small.vocab = 260;  // one less than the tokenizer's
  const RandomCheckpoint checkpoint(small);
  check_refused_at_once(generate_some(checkpoint), 3, {"261", "260"});

  CheckpointShape exact;
  exact.vocab = 261;
  RandomCheckpoint padded(exact);
  json tokenizer = json::parse(padded.tokenizer);
  json pad = tokenizer["added_tokens"][1];
  pad["id"] = 261;
  pad["content"] = "<pad>";
  tokenizer["added_tokens"].push_back(pad);
  padded.tokenizer = tokenizer.dump();
  padded.write();
  const Result result = generate_some(padded);
  CHECK_MESSAGE(result.exit_code == 0, result.describe());
  CHECK(result.says("warning"));
  CHECK(result.says("261"));
  check_refused_at_once(generate(padded.path(), {"-p", "<pad>", "-n", "2"}), 2, {"261"});
}

TEST_CASE("without a tokenizer a text exits 3") {
  const RandomCheckpoint checkpoint;
  checkpoint.remove_file("tokenizer.json");
  check_refused_at_once(generate_some(checkpoint), 3, {"tokenizer.json", "tokenizer.model"});
  check_refused_at_once(generate(checkpoint.path(), {"-p", "a", "--tokenize"}), 3,
                        {"tokenizer.json"});
}

TEST_CASE("the tokenizers to refuse are refused") {
  const auto malformed = testdata("tokenizers/malformed");
  if (!malformed) return;
  int refused = 0;
  for (const auto& entry : fs::directory_iterator(*malformed)) {
    if (!entry.is_regular_file() || entry.path().extension() == ".md") continue;
    CAPTURE(entry.path().string());
    const TempDir directory;
    const bool is_json = entry.path().extension() == ".json";
    fs::copy_file(entry.path(),
                  directory.path() / (is_json ? "tokenizer.json" : "tokenizer.model"));
    check_refused_at_once(run(bare_command({directory.path().string(), "--tokenize", "-p", "a"})),
                          3, {"tokenizer."});
    ++refused;
  }
  CHECK(refused > 0);
  const TempDir unigram;
  for (const auto& entry : fs::directory_iterator(*testdata("tokenizers/unigram-refuse"))) {
    if (entry.path().extension() != ".model") continue;
    fs::copy_file(entry.path(), unigram.path() / "tokenizer.model",
                  fs::copy_options::overwrite_existing);
  }
  REQUIRE(fs::exists(unigram.path() / "tokenizer.model"));
  check_refused_at_once(run(bare_command({unigram.path().string(), "--tokenize", "-p", "a"})), 4,
                        {"nigram"});
}

}  // namespace
}  // namespace engine::test
