// --int8, and mixtures of experts, through engine_generate.
#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "tests/cli/generate_run.h"
#include "tests/model/edited_checkpoint.h"
#include "tests/support/temp_dir.h"

namespace engine::test {
namespace {

using nlohmann::json;

std::filesystem::path golden(const char* name) { return source_dir() / "tests/model/data" / name; }
std::filesystem::path demo(const char* name) { return source_dir() / "models" / name; }

TEST_CASE("--json says the format of the weights and counts their bytes") {
  // D 32, 4 heads on 2 of size 8, F 24, V 97, 2 layers, 8 experts: norms, table and router in f32,
  // and 97 + 2 · (64 + 32 + 8 · (48 + 32)) int8 rows with a scale of two bytes.
  const std::size_t kept = 4 * (5 * 32 + 97 * 32 + 2 * 8 * 32);
  const std::size_t rows32 = 97 + 2 * (64 + 32 + 8 * 48), rows24 = 2 * 8 * 32;
  const std::vector<std::string> arguments = {
      "--prompt-tokens", "1,5,9", "-n", "20", "--ignore-eos", "--dtype", "f32",
      "--temperature",   "0"};
  const json plain = generate_json(golden("mixtral_8_top2"), arguments);
  CHECK(plain.at("weights") == "f32");
  CHECK(plain.at("memory").at("weights_bytes") == kept + 4 * (rows32 * 32 + rows24 * 24));

  std::vector<std::string> with_int8 = arguments;
  with_int8.push_back("--int8");
  const json int8 = generate_json(golden("mixtral_8_top2"), with_int8);
  CHECK(int8.at("weights") == "int8");
  CHECK(int8.at("dtype") == "f32");
  CHECK(int8.at("memory").at("weights_bytes") == kept + rows32 * 34 + rows24 * 26);
  CHECK(int8.at("ids").size() == 20);

  with_int8.push_back("--eager");
  CHECK(generate_json(golden("mixtral_8_top2"), with_int8).at("ids") == int8.at("ids"));
}

TEST_CASE("--dry-run says what --int8 keeps and reads") {
  // As stored in bf16, 3,743,424 parameters are 7.5 MB; int8 reads the tied table a second time.
  const Result plain = generate(demo("stories-moe-3m"), {"-p", "Lily", "--dry-run"});
  REQUIRE_MESSAGE(plain.exit_code == 0, plain.describe());
  CHECK_MESSAGE(
      plain.out.starts_with("weights    7.5 MB (7.5 MB to read, linear ones kept as bf16)"),
      plain.describe());
  const Result int8 = generate(demo("stories-moe-3m"), {"-p", "Lily", "--dry-run", "--int8"});
  REQUIRE_MESSAGE(int8.exit_code == 0, int8.describe());
  CHECK_MESSAGE(
      int8.out.starts_with("weights    4.6 MB (8.3 MB to read, linear ones kept as int8)"),
      int8.describe());
}

TEST_CASE("--perplexity with --int8 is close to that without") {
  for (const char* name : {"stories-3m", "stories-moe-3m"}) {
    const std::vector<std::string> arguments = {
        "--perplexity", (source_dir() / "tests/model/stories.txt").string(), "--dtype", "bf16"};
    std::vector<std::string> with_int8 = arguments;
    with_int8.push_back("--int8");
    const json plain = generate_json(demo(name), arguments);
    const json int8 = generate_json(demo(name), with_int8);
    CHECK(int8.at("weights") == "int8");
    CHECK(int8.at("tokens") == plain.at("tokens"));
    const double difference =
        int8.at("mean_nll").get<double>() - plain.at("mean_nll").get<double>();
    CHECK(difference != 0);
    CHECK(std::fabs(difference) < 0.01);
  }
}

TEST_CASE("the demo mixture tells a story to its end") {
  const json story = generate_json(
      demo("stories-moe-3m"), {"-p", "Lily", "-n", "450", "--temperature", "0", "--dtype", "f32"});
  // As transformers tells it in float32 (models/stories-moe-3m/README.md).
  CHECK(story.at("stop_reason") == "eos");
  const auto text = story.at("text").get<std::string>();
  CHECK_MESSAGE(text.starts_with(" lived in a village beside a wide river with her mother."), text);
  CHECK_MESSAGE(text.ends_with("Lily had learned that a small helper can do a big thing."), text);
}

TEST_CASE("a mixture that does not fit its config exits with 3 and names what is wrong") {
  const auto refused = [](const EditedCheckpoint& checkpoint,
                          std::initializer_list<std::string> parts) {
    const TempDir directory;
    checkpoint.write(directory.path());
    check_refused_at_once(generate(directory.path(), {"--prompt-tokens", "1", "-n", "1"}), 3,
                          parts);
  };
  EditedCheckpoint missing(golden("mixtral_8_top2"));
  missing.erase("model.layers.1.block_sparse_moe.experts.6.w3.weight");
  refused(missing, {"model.layers.1.block_sparse_moe.experts.6.w3.weight", "missing"});
  EditedCheckpoint none(golden("mixtral_8_top2"));
  none.config["num_local_experts"] = 0;
  refused(none, {"config.json", "num_local_experts", "found 0"});
  EditedCheckpoint many(golden("mixtral_8_top2"));
  many.config["num_experts_per_tok"] = 9;
  refused(many, {"config.json", "num_experts_per_tok", "at most num_local_experts 8", "found 9"});
}

TEST_CASE("int8 of a weight that is not finite exits with 3 and names the tensor") {
  const std::string name = "model.layers.0.mlp.experts.down_proj";
  EditedCheckpoint checkpoint(golden("mixtral_fused"));
  EditedTensor& tensor = checkpoint.tensor(name);
  std::vector<float> values = tensor.values();
  values[values.size() / 2] = std::numeric_limits<float>::quiet_NaN();
  tensor.set_values(values);
  const TempDir directory;
  checkpoint.write(directory.path());
  const std::vector<std::string> arguments = {"--prompt-tokens", "1,2,3", "-n", "1", "--int8"};
  check_refused_at_once(generate(directory.path(), arguments), 3, {name});
}

}  // namespace
}  // namespace engine::test
