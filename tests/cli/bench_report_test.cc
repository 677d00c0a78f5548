// engine_bench --report and --picture from outside.
#include <doctest/doctest.h>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "tests/bench/markup.h"
#include "tests/cli/generate_run.h"
#include "tests/support/paths.h"
#include "tests/support/process.h"
#include "tests/support/temp_dir.h"

namespace engine::test {
namespace {

namespace fs = std::filesystem;

Result bench(const fs::path& directory, std::vector<std::string> arguments) {
  Command command;
  command.program = program("engine_bench");
  command.arguments = std::move(arguments);
  command.directory = directory;
  command.timeout_s = 300;
  return run(command);
}

std::string content(const fs::path& path) {
  std::ifstream stream(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(stream), std::istreambuf_iterator<char>()};
}

std::ptrdiff_t files_in(const fs::path& directory) {
  return std::distance(fs::directory_iterator(directory), fs::directory_iterator());
}

bool holds(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

TEST_CASE("--report writes a page of the run, beside the other outputs") {
  const TempDir directory;
  const Result result =
      bench(directory.path(), {"gemv", "llama-1b", "--layers", "1", "-n", "3", "--samples", "2",
                               "--prefill", "8", "--device", "cpu", "--output", "results.csv",
                               "--report", "it's <b>.html", "--picture", "results.svg"});
  REQUIRE_MESSAGE(result.exit_code == 0, result.describe());
  CHECK(files_in(directory.path()) == 4);  // the CSV with its JSON, page, picture
  const std::string page = content(directory.path() / "it's <b>.html");
  CHECK(markup_problem(page) == "");
  CHECK(holds(page,
              "engine_bench gemv llama-1b --layers 1 -n 3 --samples 2 --prefill 8 --device "
              "cpu --output results.csv --report &#39;it&#39;\\&#39;&#39;s &lt;b&gt;.html&#39; "
              "--picture results.svg"));
  for (const char* part :
       {"<h2>At a glance</h2>", "<h2>Roofline</h2>", "<h2>gemv</h2>", "<h2>llama-1b</h2>",
        "Read ceiling", "bf16 product ceiling", "Commit", "memory_bandwidth_1024",
        "prefill_8_token_per_sec", "% of the ceiling"}) {
    CHECK_MESSAGE(holds(page, part), part);
  }
  // There are no targets on the CPU, and no peers of this machine.
  CHECK_FALSE(holds(page, "class=\"mark target\""));
  CHECK_FALSE(holds(page, "class=\"mark peer\""));
  // Two sizes, decoding, and a prompt have a place under the roof.
  std::size_t points = 0;
  for (const std::string& tag : start_tags(page)) {
    points += attribute(tag, "class").starts_with("point ") ? 1 : 0;
  }
  CHECK(points == 4);
  CHECK(holds(page, " TFLOP/s at 1.00 FLOP a byte</title>"));  // gemv: two a weight of two bytes
  CHECK(markup_problem(content(directory.path() / "results.svg")) == "");
}

TEST_CASE("attention and fidelity have a page too, without --output") {
  const TempDir directory;
  const std::string model = (source_dir() / "models/stories-3m").string();
  directory.write("text.txt", "Once upon a time there was a little badger.\n");
  const Result result =
      bench(directory.path(),
            {"sdp",      "score_mod",  "fidelity",   "--batch",  "1",        "--heads", "2",
             "--seq",    "32",         "--pad",      "0",        "--mods",   "noop",    "--device",
             "cpu",      "--backward", "--head-dim", "16",       "--model",  model,     "--text",
             "text.txt", "-o",         "csv",        "--report", "page.html"});
  REQUIRE_MESSAGE(result.exit_code == 0, result.describe());
  CHECK(result.out.starts_with("name,metric,"));
  CHECK(files_in(directory.path()) == 2);  // the text and the page
  const std::string page = content(directory.path() / "page.html");
  CHECK(markup_problem(page) == "");
  for (const char* part : {"<h2>sdp</h2>", "<h2>score_mod</h2>", "<h2>fidelity</h2>", "mean_kl",
                           "composite_mha_time", "bwd_rate", "<h2>Roofline</h2>"}) {
    CHECK_MESSAGE(holds(page, part), part);
  }
  // Attention over (1, 2, 32, 16): 4 · 2 · 32² · 16 operations, four operands of 2 KiB;
  // backward 2.5 times that on eight. The layer: 8 · 32 · 32² and 4 · 32² · 32, two activations and
  // four matrices of 2 KiB each.
  for (const char* place : {" TFLOP/s at 16.0 FLOP a byte", " TFLOP/s at 20.0 FLOP a byte",
                            " TFLOP/s at 32.0 FLOP a byte"}) {
    CHECK_MESSAGE(holds(page, place), place);
  }
}

TEST_CASE("a run that fails keeps what was finished on its page, and an old page otherwise") {
  const TempDir directory;
  directory.write("page.html", "old");
  // It wants a model.
  const Result nothing =
      bench(directory.path(), {"fidelity", "--device", "cpu", "--report", "page.html"});
  CHECK_MESSAGE(nothing.exit_code == 2, nothing.describe());
  CHECK(content(directory.path() / "page.html") == "old");
  const Result partly = bench(
      directory.path(), {"score_mod", "fidelity", "--batch", "1", "--heads", "1", "--seq", "16",
                         "--head-dim", "16", "--device", "cpu", "--report", "page.html"});
  CHECK_MESSAGE(partly.exit_code == 2, partly.describe());
  const std::string page = content(directory.path() / "page.html");
  CHECK(markup_problem(page) == "");
  CHECK(holds(page, "the run ended early: fidelity: expected --model"));
  CHECK(holds(page, "<h2>score_mod</h2>"));
  CHECK_FALSE(holds(page, "<h2>fidelity</h2>"));
  CHECK(files_in(directory.path()) == 1);
}

TEST_CASE("a page that a full disk cuts off is not there, and the table is") {
  const TempDir directory;
  Command command;
  command.program = program("engine_bench");
  command.arguments = {"score_mod", "--batch", "1",    "--heads",    "1",        "--seq",
                       "16",        "--mods",  "noop", "--head-dim", "16",       "--device",
                       "cpu",       "-o",      "csv",  "--report",   "page.html"};
  command.directory = directory.path();
  command.file_size = 2048;  // less than any page
  const Result result = run(command);
  CHECK_MESSAGE(result.exit_code == 1, result.describe());
  CHECK_MESSAGE(result.says("page.html: cannot be written"), result.describe());
  CHECK(result.error_lines() == 1);
  CHECK(result.out.starts_with("name,metric,"));
  CHECK(files_in(directory.path()) == 0);
}

TEST_CASE("a page that can't be written ends the run as a result file does") {
  const TempDir directory;
  directory.write("file", "");
  const auto exit_of = [&](const std::string& flag, const std::string& name) {
    const Result result = bench(directory.path(), {"gemv", "--device", "cpu", flag, name});
    CHECK_MESSAGE(result.error_lines() == 1, result.describe());
    CHECK_MESSAGE(result.says(flag), result.describe());
    CHECK(result.out.empty());
    CHECK(result.wall_s < 5);  // before anything is measured
    return result.exit_code;
  };
  CHECK(exit_of("--output", "file/results.csv") == 1);
  CHECK(exit_of("--report", "file/results.html") == 1);
  CHECK(exit_of("--picture", "file/results.svg") == 1);
  CHECK(exit_of("--output", "results.txt") == 2);
  CHECK(exit_of("--report", "results.txt") == 2);
  CHECK(exit_of("--picture", "results.png") == 2);
  CHECK(files_in(directory.path()) == 1);

  const Result nothing_to_report =
      bench(directory.path(), {"compare", "a.csv", "b.csv", "--report", "page.html"});
  CHECK(nothing_to_report.exit_code == 2);
  CHECK_MESSAGE(nothing_to_report.says("--report"), nothing_to_report.describe());
}

}  // namespace
}  // namespace engine::test
