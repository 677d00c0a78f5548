// engine_bench sdp and score_mod from outside, on the CPU at small sizes.
#include <doctest/doctest.h>

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>
#include <vector>

#include "bench/sdp_experiment.h"
#include "tests/cli/generate_run.h"
#include "tests/support/paths.h"
#include "tests/support/process.h"

namespace engine::test {
namespace {

using nlohmann::json;

Result bench(std::vector<std::string> arguments) {
  Command command;
  command.program = program("engine_bench");
  command.arguments = std::move(arguments);
  command.timeout_s = 300;
  return run(command);
}

std::vector<json> records(const Result& result) {
  std::vector<json> all;
  std::istringstream stream(result.out);
  for (std::string line; std::getline(stream, line);) all.push_back(json::parse(line));
  return all;
}

TEST_CASE("sdp gives the source's four times for a dense and a ragged batch") {
  const Result result = bench({"sdp", "--device", "cpu", "--batch", "3", "--heads", "2", "--seq",
                               "9", "--head-dim", "8", "--dtype", "f32", "-o", "json"});
  REQUIRE_MESSAGE(result.exit_code == 0, result.describe());
  std::map<std::string, int> seen;
  for (const json& record : records(result)) {
    ++seen[record.at("metric").at("name")];
    const json& extra = record.at("benchmark").at("extra_info");
    CHECK(extra.at("batch_size") == 3);
    CHECK(extra.at("num_heads") == 2);
    CHECK(extra.at("max_sequence_len") == 9);
    CHECK(extra.at("embed_dimension") == 16);
    CHECK(extra.at("rows") == (extra.at("pad_percentage") == 0.0 ? 27 : 11));
    CHECK(record.at("metric").at("benchmark_values").at(0) > 0);
  }
  CHECK(seen == std::map<std::string, int>{{"nn_mha_time (µs)", 2},
                                           {"compiled_nn_mha_time (µs)", 2},
                                           {"composite_mha_time (µs)", 2},
                                           {"compiled_composite_mha_time (µs)", 2}});
}

TEST_CASE("score_mod gives times and speed-ups, forward and backward, and sums them up") {
  const Result result = bench({"score_mod", "--device", "cpu", "--batch", "1", "--heads", "2",
                               "--seq", "32", "--head-dim", "16", "--dtype", "f32", "--mods",
                               "noop,rel,soft_cap,document", "--backward", "-o", "json"});
  REQUIRE_MESSAGE(result.exit_code == 0, result.describe());
  std::map<std::string, int> seen;
  for (const json& record : records(result)) ++seen[record.at("metric").at("name")];
  for (const std::string direction : {"fwd", "bwd"}) {
    CHECK(seen[direction + "_rate(TFLOP/s)"] == 4);
    CHECK(seen[direction + "_speedup"] == 4);
    for (const char* which : {"_average", "_max", "_min"}) {
      CHECK(seen[direction + "_speedup" + which] == 1);
    }
  }
}

TEST_CASE("bad sizes of sdp and score_mod are named") {
  for (const auto& [flag, value] :
       std::vector<std::pair<std::string, std::string>>{{"--mods", "nope"},
                                                        {"--pad", "1.5"},
                                                        {"--pad", "x"},
                                                        {"--batch", "0"},
                                                        {"--seq", "1,,2"}}) {
    const Result result = bench({"score_mod", flag, value, "--device", "cpu"});
    CHECK_MESSAGE(result.exit_code == 2, result.describe());
    CHECK_MESSAGE(result.says(flag), result.describe());
  }
}

TEST_CASE("lengths of a padded batch leave what the padding says, and one is full") {
  const std::vector<std::int32_t> lengths = bench::padded_lengths(256, 1000, 0.9, 123);
  CHECK(std::count(lengths.begin(), lengths.end(), 1000) == 1);
  double sum = 0;
  for (const std::int32_t length : lengths) {
    CHECK((length == 1000 || (length >= 50 && length <= 150)));
    sum += length == 1000 ? 0 : length;
  }
  CHECK(sum / 255 == doctest::Approx(99.5).epsilon(0.02));                       // rounded down
  const std::vector<std::int32_t> least = bench::padded_lengths(4, 3, 0.99, 1);  // never 0
  CHECK(std::count(least.begin(), least.end(), 1) == 3);
  CHECK(std::count(least.begin(), least.end(), 3) == 1);
}

}  // namespace
}  // namespace engine::test
