// --logits, --perplexity and --dry-run, and numbers that are not finite.
#include <algorithm>
#include <cmath>
#include <limits>
#include <regex>
#include <sstream>
#include <string>
#include <vector>

#include "tests/cli/generate_run.h"
#include "tests/model/goldens.h"
#include "tests/support/npy_reader.h"
#include "tests/support/random_checkpoint.h"

namespace engine::test {
namespace {

using nlohmann::json;
using Ids = std::vector<std::int32_t>;

const float kInfinite = std::numeric_limits<float>::infinity();
const float kNotANumber = std::numeric_limits<float>::quiet_NaN();

TEST_CASE("--logits writes the golden logits of every prompt position") {
  const TempDir directory;
  const std::string file = (directory.path() / "logits.npy").string();
  int compared = 0;
  for (const Golden& golden : load_goldens()) {
    CAPTURE(golden.name);
    const Result result = generate(golden.directory, {"--prompt-tokens", id_list(golden.ids), "-n",
                                                      "0", "--dtype", "f32", "--logits", file});
    REQUIRE_MESSAGE(result.exit_code == 0, result.describe());
    const NpyMatrix matrix = read_npy(file);
    CHECK(matrix.rows == static_cast<std::int64_t>(golden.ids.size()));
    REQUIRE(matrix.columns == golden.vocab);
    std::vector<float> rows;
    for (const std::int64_t row : golden.rows) {
      rows.insert(rows.end(), matrix.row(row), matrix.row(row) + matrix.columns);
    }
    // The limit of tests/model/parity_test.cc for f32.
    CHECK(nmse(rows, golden.logits) <= 1e-10);
    ++compared;
  }
  CHECK(compared > 10);
}

TEST_CASE("--logits leaves the generation as it is") {
  const RandomCheckpoint checkpoint;
  const TempDir directory;
  const std::vector<std::string> arguments = {"-p", "the the", "-n", "10", "--seed", "3"};
  std::vector<std::string> with_logits = arguments;
  with_logits.insert(with_logits.end(), {"--logits", (directory.path() / "a.npy").string()});
  CHECK(generate_json(checkpoint.path(), with_logits).at("ids") ==
        generate_json(checkpoint.path(), arguments).at("ids"));
  CHECK(read_npy(directory.path() / "a.npy").rows == 3);
}

TEST_CASE("--logits is written whole or not at all") {
  const RandomCheckpoint checkpoint;
  const TempDir directory;
  for (const std::string& file :
       {std::string("/nonexistent/a.npy"), (directory.path() / "none/a.npy").string(),
        directory.path().string()}) {
    CAPTURE(file);
    check_refused(generate(checkpoint.path(), {"-p", "a", "-n", "0", "--logits", file}), 1, {file});
  }
  // A full disk: 40 rows of 270 floats are 43,200 bytes.
  directory.write("old.npy", "kept");
  Command full =
      generate_command(checkpoint.path(), {"--prompt-tokens", id_list(Ids(40, 3)), "-n", "0",
                                           "--logits", (directory.path() / "old.npy").string()});
  full.file_size = 20000;
  check_refused(run(full), 1, {"old.npy", "cannot write"});
  std::size_t entries = 0;
  for (const auto& entry : std::filesystem::directory_iterator(directory.path())) {
    CHECK(entry.path().filename() == "old.npy");
    ++entries;
  }
  CHECK(entries == 1);
  CHECK(std::filesystem::file_size(directory.path() / "old.npy") == 4);
}

// The logits of `ids`, from a run of their own.
NpyMatrix logits_of(const RandomCheckpoint& checkpoint, const Ids& ids) {
  const TempDir directory;
  const std::string file = (directory.path() / "logits.npy").string();
  const Result result =
      generate(checkpoint.path(), {"--prompt-tokens", id_list(ids), "-n", "0", "--logits", file});
  REQUIRE_MESSAGE(result.exit_code == 0, result.describe());
  return read_npy(file);
}

// −log softmax(row)[target], straight from the definition.
double nll(const float* row, std::int64_t vocab, std::int32_t target) {
  long double sum = 0;
  for (std::int64_t i = 0; i < vocab; ++i) sum += std::exp(static_cast<long double>(row[i]));
  return static_cast<double>(std::log(sum) - static_cast<long double>(row[target]));
}

TEST_CASE("--perplexity scores every token once in windows of half a context") {
  const RandomCheckpoint checkpoint;
  std::string text;
  for (int i = 0; i < 23; ++i) text += static_cast<char>('a' + i * 7 % 23);
  checkpoint.write_file("text", text);
  Ids ids;
  for (const char c : text) ids.push_back(2 + c);
  const auto count = static_cast<std::int64_t>(ids.size());

  for (const bool bos : {true, false}) {
    for (const std::int64_t window : {128, 24, 23, 22, 10, 7, 2}) {
      CAPTURE(bos);
      CAPTURE(window);
      std::vector<std::string> arguments = {"--perplexity", checkpoint.name() + "/text", "--json",
                                            "--max-context", std::to_string(window)};
      if (!bos) arguments.push_back("--no-bos");
      const Result result = generate(checkpoint.path(), arguments);
      REQUIRE_MESSAGE(result.exit_code == 0, result.describe());
      const json object = json::parse(result.out);

      // Windows by their definition: input row j of the one that starts at s holds BOS, then the
      // tokens from s on, and predicts the token after it.
      std::vector<int> scored(ids.size(), 0);
      double total = 0;
      for (std::int64_t start = 0; start < count; start += window / 2) {
        Ids input(bos ? 1 : 0, 0);
        const std::int64_t end =
            std::min(count - 1, start + window - static_cast<std::int64_t>(input.size()));
        input.insert(input.end(), ids.begin() + start, ids.begin() + std::max(start, end));
        if (input.empty()) break;
        const NpyMatrix logits = logits_of(checkpoint, input);
        for (std::int64_t row = 0; row < logits.rows; ++row) {
          const auto target = static_cast<std::size_t>(start + row + (bos ? 0 : 1));
          if (target >= ids.size() || scored[target] > 0) continue;
          ++scored[target];
          total += nll(logits.row(row), logits.columns, ids[target]);
        }
        if (scored.back() > 0) break;
      }
      const std::int64_t tokens = count - (bos ? 0 : 1);
      REQUIRE(std::count(scored.begin(), scored.end(), 1) == tokens);
      const double mean = total / static_cast<double>(tokens);
      CHECK(object.at("tokens") == tokens);
      // The same logits, but for prefills of another length: fp32 rounding.
      CHECK(object.at("mean_nll").get<double>() == doctest::Approx(mean).epsilon(1e-5));
      CHECK(object.at("perplexity").get<double>() == doctest::Approx(std::exp(mean)).epsilon(1e-5));
    }
  }
}

TEST_CASE("--perplexity prints one line and refuses a text without tokens to score") {
  const RandomCheckpoint checkpoint;
  checkpoint.write_file("text", "the one");
  Result result = generate(checkpoint.path(), {"--perplexity", checkpoint.name() + "/text"});
  CHECK(result.exit_code == 0);
  CHECK(std::regex_match(result.out,
                         std::regex("perplexity [0-9.]+, mean NLL [0-9.]+ nats, 5 tokens\n")));
  checkpoint.write_file("empty", "");
  check_refused_at_once(generate(checkpoint.path(), {"--perplexity", checkpoint.name() + "/empty"}),
                        2, {"perplexity"});
  checkpoint.write_file("one", "a");
  check_refused_at_once(
      generate(checkpoint.path(), {"--perplexity", checkpoint.name() + "/one", "--no-bos"}), 2,
      {"perplexity"});
  checkpoint.remove_file("tokenizer.json");
  check_refused_at_once(generate(checkpoint.path(), {"--perplexity", checkpoint.name() + "/text"}),
                        3, {"tokenizer"});
}

// The number of bytes after `label` in the table of --dry-run, as it was rounded.
double shown_bytes(const std::string& table, const std::string& label, double* rounding) {
  const std::regex line("(?:^|\n)" + label + " +([0-9.]+) ([kMGT])B");
  std::smatch match;
  REQUIRE_MESSAGE(std::regex_search(table, match, line), label, " in ", table);
  const double unit =
      std::pow(10.0, 3.0 * (1 + static_cast<double>(std::string("kMGT").find(match[2].str()))));
  *rounding = unit * (match[1].str().find('.') == std::string::npos ? 0.5 : 0.05);
  return std::stod(match[1]) * unit;
}

TEST_CASE("--dry-run prints the sizes that the shapes give and reads no weights") {
  // 2 TB that the disk does not hold: reading them would take hours, having them more memory than
  // there is.
  CheckpointShape shape;
  shape.hidden = 8192;
  shape.intermediate = 28672;
  shape.layers = 1000;
  shape.heads = 64;
  shape.kv_heads = 64;
  shape.positions = 4096;
  shape.vocab = 32000;
  shape.dtype = DType::kBF16;
  shape.sparse = true;
  const RandomCheckpoint huge(shape);
  const Result result = generate(huge.path(), {"-p", "the", "-n", "998", "--dry-run"});
  CHECK_MESSAGE(result.wall_s < (kSanitized ? 60.0 : 10.0), result.describe());
  check_refused(result, 5, {"need", "free", "--max-context"});
  double rounding = 0;
  const double weights = 2.0 * (1000.0 * (4.0 * 8192 * 8192 + 3.0 * 8192 * 28672 + 2.0 * 8192) +
                                8192.0 + 2.0 * 32000 * 8192);
  CHECK(static_cast<double>(huge.data_bytes()) == weights);
  const double shown = shown_bytes(result.out, "weights", &rounding);
  CHECK(std::abs(shown - weights) <= rounding);
  const double cache = 1000.0 * 2 * 64 * 128 * 1000 * 2;  // 2 + 998 positions of two bytes each
  const double shown_cache = shown_bytes(result.out, "KV cache", &rounding);
  CHECK(std::abs(shown_cache - cache) <= rounding);

  // A run stops at the same place, with the numbers, before any weight is read.
  const Result refused = generate(huge.path(), {"-p", "the", "-n", "998"});
  CHECK_MESSAGE(refused.wall_s < (kSanitized ? 60.0 : 10.0), refused.describe());
  std::ostringstream exact;
  exact.precision(0);
  exact << std::fixed << weights;
  check_refused_at_once(refused, 5, {"need", "free", exact.str()});
}

TEST_CASE("--dry-run of a model that fits exits 0 and generates nothing") {
  const RandomCheckpoint checkpoint;
  const Result result = generate(checkpoint.path(), {"-p", "the", "-n", "14", "--dry-run"});
  CHECK_MESSAGE(result.exit_code == 0, result.describe());
  double rounding = 0;
  const double weights = shown_bytes(result.out, "weights", &rounding);
  CHECK(std::abs(weights - static_cast<double>(checkpoint.data_bytes())) <= rounding);
  const double cache = shown_bytes(result.out, "KV cache", &rounding);
  CHECK(std::abs(cache - 2 * 2 * 2 * 8 * 16 * 4) <= rounding);
  CHECK(result.out.find("for 16 positions") != std::string::npos);
  // It checks what a run would: a tensor of the wrong shape, say.
  RandomCheckpoint wrong;
  wrong.tensor("model.norm.weight").shape = {16, 2};
  wrong.write();
  check_refused_at_once(generate(wrong.path(), {"-p", "the", "--dry-run"}), 3,
                        {"model.norm.weight"});
}

// One of each kind of tensor, and an element of it that takes part in the prompt <s> "the".
struct Poke {
  const char* tensor;
  std::int64_t element;
};
constexpr Poke kPokes[] = {
    {"model.embed_tokens.weight", 259 * 32 + 5},
    {"model.layers.0.input_layernorm.weight", 3},
    {"model.layers.0.self_attn.q_proj.weight", 9 * 32 + 7},
    {"model.layers.1.self_attn.k_proj.weight", 4 * 32 + 1},
    {"model.layers.0.self_attn.v_proj.weight", 2 * 32 + 2},
    {"model.layers.1.self_attn.o_proj.weight", 31 * 32 + 31},
    {"model.layers.1.post_attention_layernorm.weight", 0},
    {"model.layers.0.mlp.gate_proj.weight", 47 * 32 + 3},
    {"model.layers.1.mlp.up_proj.weight", 6 * 32 + 30},
    {"model.layers.0.mlp.down_proj.weight", 20 * 48 + 47},
    {"model.norm.weight", 31},
    {"lm_head.weight", 200 * 32 + 4},
};

TEST_CASE("NaN and infinity in any tensor end the run with 1 at the first step") {
  const TempDir output;
  for (const Poke& poke : kPokes) {
    for (const float value : {kNotANumber, kInfinite, -kInfinite}) {
      CAPTURE(poke.tensor);
      CAPTURE(value);
      RandomCheckpoint checkpoint;
      checkpoint.tensor(poke.tensor).set(poke.element, value);
      checkpoint.write();
      check_refused_at_once(generate(checkpoint.path(), {"-p", "the", "-n", "8"}), 1,
                            {"step 1", "NaN or infinite"});
      if (std::isinf(value)) continue;
      // The other ways to numbers: no file, no figure.
      const std::filesystem::path file = output.path() / "logits.npy";
      check_refused_at_once(
          generate(checkpoint.path(), {"-p", "the", "-n", "0", "--logits", file.string()}), 1,
          {"NaN or infinite"});
      CHECK_FALSE(std::filesystem::exists(file));
      checkpoint.write_file("text", "the the the");
      check_refused_at_once(
          generate(checkpoint.path(), {"--perplexity", checkpoint.name() + "/text"}), 1,
          {"NaN or infinite"});
    }
  }
}

TEST_CASE("an infinite logit is an error where it is only written or scored too") {
  // Whichever sign the final hidden state has there, one of the two gives −infinity.
  const TempDir output;
  for (const float value : {kInfinite, -kInfinite}) {
    CAPTURE(value);
    RandomCheckpoint checkpoint;
    checkpoint.tensor("lm_head.weight").set(200 * 32 + 4, value);
    checkpoint.write();
    const std::filesystem::path file = output.path() / "logits.npy";
    check_refused_at_once(
        generate(checkpoint.path(), {"-p", "the", "-n", "0", "--logits", file.string()}), 1,
        {"NaN or infinite"});
    CHECK_FALSE(std::filesystem::exists(file));
    checkpoint.write_file("text", "the");
    check_refused_at_once(
        generate(checkpoint.path(), {"--perplexity", checkpoint.name() + "/text"}), 1,
        {"NaN or infinite"});
  }
}

TEST_CASE("a NaN met later ends the run there and nothing is printed after it") {
  const std::vector<std::string> arguments = {"--prompt-tokens", "0,259", "-n",          "40",
                                              "--temperature",   "1",     "--top-k",     "0",
                                              "--seed",          "5",     "--ignore-eos"};
  RandomCheckpoint checkpoint;
  checkpoint.remove_file("tokenizer.json");
  checkpoint.tokenizer.clear();
  const auto ids = generate_json(checkpoint.path(), arguments).at("ids").get<Ids>();
  REQUIRE(ids.size() == 40);
  std::size_t place = 4;  // the first id from here on that was not met before
  while (std::find(ids.begin(), ids.begin() + static_cast<std::ptrdiff_t>(place), ids[place]) !=
             ids.begin() + static_cast<std::ptrdiff_t>(place) ||
         ids[place] == 0 || ids[place] == 259) {
    ++place;
  }
  REQUIRE(place + 2 < ids.size());
  checkpoint.tensor("model.embed_tokens.weight").set(ids[place] * 32 + 1, kNotANumber);
  checkpoint.write();
  for (const bool eager : {false, true}) {
    std::vector<std::string> all = arguments;
    if (eager) all.push_back("--eager");
    const Result result = generate(checkpoint.path(), all);
    check_refused(result, 1, {"step " + std::to_string(place + 2) + " ", "NaN or infinite"});
    const Ids shown(ids.begin(), ids.begin() + static_cast<std::ptrdiff_t>(place) + 1);
    CHECK(result.out == id_list(shown, ' '));
    all.push_back("--json");
    check_refused_at_once(generate(checkpoint.path(), all), 1, {"NaN or infinite"});
  }
}

TEST_CASE("weights that overflow f16 are an error there and fine in f32 and bf16") {
  RandomCheckpoint weights;
  weights.tensor("model.layers.0.mlp.up_proj.weight").set(0, 1e6f);
  weights.write();
  // Weights that fit but whose activations don't: silu(gate) x up is over 65504.
  RandomCheckpoint activations;
  for (StoredTensor* tensor : {&activations.tensor("model.layers.0.mlp.gate_proj.weight"),
                               &activations.tensor("model.layers.0.mlp.up_proj.weight")}) {
    for (std::int64_t i = 0; i < tensor->size(); ++i) {
      tensor->set(i, i % 2 == 0 ? 900.0f : -700.0f);
    }
  }
  activations.write();
  for (const RandomCheckpoint* checkpoint : {&weights, &activations}) {
    check_refused_at_once(generate(checkpoint->path(), {"-p", "the", "-n", "4", "--dtype", "f16"}),
                          1, {"NaN or infinite", "--dtype"});
    for (const std::string dtype : {"f32", "bf16"}) {
      const Result result =
          generate(checkpoint->path(), {"-p", "the", "-n", "4", "--dtype", dtype});
      CHECK_MESSAGE(result.exit_code == 0, result.describe());
    }
  }
}

}  // namespace
}  // namespace engine::test
