// engine_bench from outside: names, flags, output and result files.
#include <doctest/doctest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <sstream>
#include <string>
#include <vector>

#include "tests/cli/generate_run.h"
#include "tests/support/paths.h"
#include "tests/support/process.h"
#include "tests/support/temp_dir.h"

namespace engine::test {
namespace {

using nlohmann::json;

#if defined(NDEBUG)
constexpr bool kOptimised = !kSanitized;
#else
constexpr bool kOptimised = false;
#endif

Result bench(std::vector<std::string> arguments) {
  Command command;
  command.program = program("engine_bench");
  command.arguments = std::move(arguments);
  command.timeout_s = 300;
  return run(command);
}

std::string content(const std::filesystem::path& path) {
  std::ifstream stream(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(stream), std::istreambuf_iterator<char>()};
}

std::vector<json> records(const std::string& lines) {
  std::vector<json> all;
  std::istringstream stream(lines);
  for (std::string line; std::getline(stream, line);) all.push_back(json::parse(line));
  return all;
}

// The smallest run of a model that has every part.
std::vector<std::string> small_run(const std::vector<std::string>& more) {
  std::vector<std::string> arguments = {"llama-1b", "--device", "cpu",       "--layers", "1",
                                        "-n",       "3",        "--samples", "2"};
  arguments.insert(arguments.end(), more.begin(), more.end());
  return arguments;
}

TEST_CASE("--list shows every experiment with its targets, and nothing else") {
  const Result list = bench({"--list"});
  CHECK_MESSAGE(list.exit_code == 0, list.describe());
  CHECK(list.err.empty());
  std::set<std::string> names;
  std::istringstream stream(list.out);
  for (std::string line; std::getline(stream, line);) names.insert(line.substr(0, line.find(' ')));
  CHECK(names == std::set<std::string>{"experiment", "llama2-7b", "mixtral-8x7b", "llama-1b",
                                       "fidelity", "gemv", "gather_gemv", "layer_norm",
                                       "mlp_layer_norm_gelu", "sdp", "score_mod", "ceilings",
                                       "all"});
  for (const char* target : {"94 tok/s", "1253 GB/s", "144 tok/s", "957 GB/s", "175 tok/s",
                             "1130 GB/s", "162 s", "172 s"}) {
    CHECK_MESSAGE(list.out.find(target) != std::string::npos, target);
  }
}

TEST_CASE("an unknown experiment exits 2 and lists those known") {
  const Result unknown = bench({"llama3-8b"});
  CHECK(unknown.exit_code == 2);
  CHECK(unknown.error_lines() == 1);
  CHECK(unknown.out.empty());
  for (const char* name : {"llama3-8b", "llama2-7b", "mixtral-8x7b", "llama-1b", "fidelity", "sdp",
                           "score_mod", "ceilings", "all"}) {
    CHECK_MESSAGE(unknown.says(name), unknown.describe());
  }
}

TEST_CASE("wrong flags exit 2 with one line that names them") {
  const std::vector<std::pair<std::vector<std::string>, std::string>> cases = {
      {{}, "EXPERIMENT"},
      {{"llama-1b", "--samples", "0"}, "--samples"},
      {{"llama-1b", "--layers", "x"}, "--layers"},
      {{"llama-1b", "--dtype", "int4"}, "--dtype"},
      {{"llama-1b", "-o", "xml"}, "-o"},
      {{"llama-1b", "--prefill", "1,,2"}, "--prefill"},
      {{"llama-1b", "--depth", "-1"}, "--depth"},
      {{"llama-1b", "--device", "tpu"}, "--device"},
      {{"llama-1b", "--output", "results.txt"}, "--output"},
      {{"llama-1b", "--no-such-flag"}, "--no-such-flag"},
      {{"fidelity", "--device", "cpu"}, "--model"},
      {{"compare", "one.csv"}, "compare"},
      {{"compare", "no-such-file.csv", "b.csv"}, "no-such-file.csv"}};
  for (const auto& item : cases) {
    const Result result = bench(item.first);
    const std::string& part = item.second;
    CAPTURE(part);
    CHECK_MESSAGE(result.exit_code == 2, result.describe());
    CHECK_MESSAGE(result.error_lines() == 1, result.describe());
    CHECK_MESSAGE(result.says(part), result.describe());
  }
  const Result missing = bench({"llama-1b", "--device", "cpu", "--model", "no-such-dir"});
  CHECK_MESSAGE(missing.exit_code == 3, missing.describe());
}

TEST_CASE("LLaMA 2 7B in int8, two layers, gives its rows on the CPU in under a minute") {
  const TempDir directory;
  const std::string file = (directory.path() / "results/run.csv").string();
  const Result result =
      bench({"llama2-7b", "--int8", "--device", "cpu", "--layers", "2", "--max-new-tokens", "8",
             "--samples", "1", "-o", "json", "--output", file});
  REQUIRE_MESSAGE(result.exit_code == 0, result.describe());
  if (kOptimised) CHECK(result.wall_s < 60);
  std::map<std::string, json> by_metric;
  for (const json& record : records(result.out)) {
    by_metric[record.at("metric").at("name")] = record;
    CHECK(record.at("benchmark").at("dtype") == "int8");
    CHECK(record.at("benchmark").at("extra_info").at("device") == "cpu");
    CHECK(record.at("benchmark").at("extra_info").at("layers") == 2);
    CHECK(record.at("benchmark").at("extra_info").at("weights") == "synthetic");
    CHECK(record.at("model").at("name") == "Llama-2-7b-chat-hf");
    CHECK(record.at("model").at("type") == "OSS model");
    CHECK(record.at("metric").at("target_value") == 0);  // of 32 layers, not of 2
    REQUIRE(record.at("metric").at("benchmark_values").size() == 1);
    CHECK(record.at("metric").at("benchmark_values")[0].get<double>() > 0);
  }
  const auto value = [&](const char* metric) {
    REQUIRE(by_metric.contains(metric));
    return by_metric[metric].at("metric").at("benchmark_values")[0].get<double>();
  };
  // 2 · (202 375 168 + 2 · 42 496) + 131 072 000 + 2 · 32 000 + 5 · 4096 · 2 bytes a token
  CHECK(value("memory_bandwidth(GB/s)") ==
        doctest::Approx(value("token_per_sec") * 0.536097280).epsilon(1e-9));
  CHECK(value("startup_time(s)") < 60);
  CHECK(value("decode_token_per_sec") > value("token_per_sec"));  // no prefill in its window
  // Weights, their table in bf16 and no more than that again: what was quantised has been let go.
  CHECK(value("peak_memory(GB)") > 0.798);
  CHECK(value("peak_memory(GB)") < 1.6);
  CHECK(content(directory.path() / "results/run.json") == result.out);
  const std::string csv = content(file);
  CHECK(csv.starts_with("name,metric,target,actual,dtype,device,arch,is_model,"));
  CHECK(std::count(csv.begin(), csv.end(), '\n') ==
        1 + static_cast<std::ptrdiff_t>(by_metric.size()));
}

TEST_CASE("prefill and depth are measured when asked for, and a seed repeats the model") {
  const Result result = bench(small_run({"--prefill", "16,8", "--depth", "0,9", "-o", "csv"}));
  REQUIRE_MESSAGE(result.exit_code == 0, result.describe());
  for (const char* metric :
       {"token_per_sec", "memory_bandwidth(GB/s)", "startup_time(s)", "decode_token_per_sec",
        "time_to_first_token(ms)", "peak_memory(GB)", "prefill_16_token_per_sec",
        "prefill_8_token_per_sec", "depth_0_token_per_sec", "depth_9_token_per_sec"}) {
    CHECK_MESSAGE(result.out.find(std::string("Llama-1.1b,") + metric + ",") != std::string::npos,
                  result.describe());
  }
  const Result table = bench(small_run({}));
  CHECK_MESSAGE(table.out.find("prefill_") == std::string::npos, table.describe());
  CHECK(table.out.find("token_per_sec") != std::string::npos);
  const Result markdown = bench(small_run({"-o", "md"}));
  CHECK(markdown.out.starts_with("| name |"));
}

TEST_CASE("a mixture of experts runs on the CPU in both formats") {
  // One layer of the true width would take 3 GB; the tiny checkpoint has the same graph.
  const std::filesystem::path checkpoint = source_dir() / "tests/model/data/mixtral_8_top2";
  for (const char* format : {"--int8", "--dtype=f32"}) {
    const Result result = bench({"mixtral-8x7b", "--model", checkpoint.string(), format, "--device",
                                 "cpu", "-n", "4", "--samples", "1", "-o", "json"});
    REQUIRE_MESSAGE(result.exit_code == 0, result.describe());
    CHECK(records(result.out).front().at("model").at("name") == "mixtral_8_top2");
  }
}

TEST_CASE("a result file is appended to, or left alone when a run fails") {
  const TempDir directory;
  const std::filesystem::path file = directory.path() / "results.csv";
  REQUIRE(bench(small_run({"--output", file.string()})).exit_code == 0);
  const std::string first = content(file);
  REQUIRE(bench(small_run({"--output", file.string(), "--int8"})).exit_code == 0);
  const std::string second = content(file);
  CHECK(second.starts_with(first));
  CHECK(second.size() > first.size());
  // More positions than the model has: fails after the weights are made.
  const Result failed = bench(small_run({"--output", file.string(), "--prefill", "9000"}));
  CHECK_MESSAGE(failed.exit_code == 2, failed.describe());
  CHECK(failed.out.empty());
  CHECK(content(file) == second);

  // What was finished before a failure is kept.
  const Result partly = bench({"ceilings", "llama-1b", "--layers", "1", "--prefill", "9000",
                               "--device", "cpu", "-n", "2", "--samples", "1", "-o", "csv"});
  CHECK_MESSAGE(partly.exit_code == 2, partly.describe());
  CHECK(partly.out.find("ceilings,copy(GB/s),") != std::string::npos);
  CHECK(partly.out.find("Llama") == std::string::npos);

  const Result ratio = bench({"compare", file.string(), file.string(), "-o", "csv"});
  REQUIRE_MESSAGE(ratio.exit_code == 0, ratio.describe());
  std::istringstream lines(ratio.out);
  std::string line;
  std::getline(lines, line);
  CHECK(line.ends_with(",a,b,ratio"));
  int rows = 0;
  for (; std::getline(lines, line); ++rows) CHECK(line.ends_with(",1.000000"));
  CHECK(rows == 12);  // six metrics of two formats
}

TEST_CASE("ceilings are measured on the CPU, none above the stream's by far") {
  const Result result = bench({"ceilings", "--device", "cpu", "-o", "json"});
  REQUIRE_MESSAGE(result.exit_code == 0, result.describe());
  std::map<std::string, double> values;
  for (const json& record : records(result.out)) {
    CHECK(record.at("model").at("type") == "micro-benchmark");
    CHECK(record.at("metric").at("benchmark_values").size() >= 5);
    values[record.at("metric").at("name")] = record.at("metric").at("benchmark_values")[0];
  }
  for (const char* metric : {"read_stream(GB/s)", "cold_read_2MiB(GB/s)", "cold_read_512MiB(GB/s)",
                             "copy(GB/s)", "product(TFLOP/s)"}) {
    REQUIRE_MESSAGE(values.contains(metric), metric);
    CHECK_MESSAGE(values[metric] > 0, metric);
  }
}

// The metrics of a kernel's rows on the CPU, and their dtype.
std::set<std::string> kernel_metrics(const std::vector<std::string>& arguments,
                                     const std::string& dtype) {
  const Result result = bench(arguments);
  REQUIRE_MESSAGE(result.exit_code == 0, result.describe());
  std::set<std::string> metrics;
  for (const json& record : records(result.out)) {
    metrics.insert(record.at("metric").at("name"));
    CHECK(record.at("benchmark").at("dtype") == dtype);
    CHECK(record.at("model").at("type") == "micro-benchmark");
    const bool mean = record.at("benchmark").at("extra_info").at("size") == "mean";
    CHECK(record.at("metric").at("benchmark_values").size() >= (mean ? 2 : 20));
    for (const json& value : record.at("metric").at("benchmark_values")) CHECK(value > 0.0);
  }
  return metrics;
}

TEST_CASE("kernels give a row for each size and for their mean on the CPU") {
  const std::set<std::string> expected = {"memory_bandwidth_1024(GB/s)",
                                          "memory_bandwidth_2048(GB/s)", "memory_bandwidth(GB/s)"};
  for (const char* name : {"gemv", "gather_gemv"}) {
    CHECK(kernel_metrics({name, "--device", "cpu", "-o", "json"}, "bfloat16") == expected);
    CHECK(kernel_metrics({name, "--device", "cpu", "-o", "json", "--int8"}, "int8") == expected);
  }
  CHECK(kernel_metrics({"layer_norm", "--device", "cpu", "-o", "json"}, "bfloat16") == expected);
  CHECK(kernel_metrics({"gemv", "--device", "cpu", "-o", "json", "--steady"}, "bfloat16") ==
        expected);
  CHECK(bench({"layer_norm", "--device", "cpu", "--int8"}).exit_code == 2);
}

TEST_CASE("the MLP gives the source's figure beside the true one on the CPU") {
  const std::set<std::string> metrics =
      kernel_metrics({"mlp_layer_norm_gelu", "--device", "cpu", "-o", "json"}, "bfloat16");
  for (const char* metric : {"flops_utilization(source formula)", "flops_utilization",
                             "memory_bandwidth(GB/s)", "flops_utilization_16_rows"}) {
    CHECK_MESSAGE(metrics.contains(metric), metric);
  }
  CHECK(metrics.size() == 12);
}

TEST_CASE("a missing GPU is said loudly, and asked for by name it is an error") {
  Command command;
  command.program = program("engine_bench");
  command.arguments = {"llama-1b", "--layers", "1", "-n", "2", "--samples", "1"};
  command.environment = {{"CUDA_VISIBLE_DEVICES", ""}};
  const Result automatic = run(command);
  CHECK_MESSAGE(automatic.exit_code == 0, automatic.describe());
  CHECK_MESSAGE(automatic.says("WARNING: NO GPU"), automatic.describe());
  command.arguments.insert(command.arguments.end(), {"--device", "cuda"});
  const Result asked = run(command);
  CHECK_MESSAGE(asked.exit_code == 6, asked.describe());
}

}  // namespace
}  // namespace engine::test
