// What benchmark results look like: statistics, tables, CSV that widens, JSON lines, comparisons.
#include <doctest/doctest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>
#include <vector>

#include "bench/compare.h"
#include "bench/report.h"
#include "bench/result_file.h"
#include "bench/table.h"
#include "kernels/core/check.h"
#include "tests/support/outcome.h"
#include "tests/support/temp_dir.h"

namespace engine::bench {
namespace {

using test::outcome_of;
using test::TempDir;

namespace fs = std::filesystem;

std::string content(const fs::path& path) {
  std::ifstream stream(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(stream), std::istreambuf_iterator<char>()};
}

Result sample_result() {
  Result result;
  result.name = "Llama-2-7b-chat-hf";
  result.metric = "token_per_sec";
  result.target = 94;
  result.actual = 188;
  result.dtype = "bfloat16";
  result.device = "cuda";
  result.arch = "A card, with a comma";
  result.is_model = true;
  result.values = {187, 189, 188};
  result.ceiling = 235;
  result.telemetry.power_w = 512.25;
  result.columns = {{"layers", std::int64_t{32}}, {"share", 0.5}, {"weights", std::string("a\"b")}};
  return result;
}

// The cell of `row` under `name`.
std::string at(const Table& table, std::size_t row, const std::string& name) {
  for (std::size_t i = 0; i < table.header.size(); ++i) {
    if (table.header[i] == name) return table.rows.at(row).at(i);
  }
  return "no column " + name;
}

TEST_CASE("mean, median and spread of samples") {
  CHECK(mean(std::vector<double>{1, 2, 6}) == 3);
  CHECK(median(std::vector<double>{6, 1, 2}) == 2);
  CHECK(median(std::vector<double>{6, 1, 2, 4}) == 3);
  CHECK(median(std::vector<double>{5}) == 5);
  CHECK(spread(std::vector<double>{90, 110, 100}) == doctest::Approx(0.2));
  CHECK(spread(std::vector<double>{0, 0}) == 0);
  CHECK(outcome_of([] { median({}); }).is(ErrorKind::kInternal));
}

TEST_CASE("a row opens with the source's columns and says ratio, ceiling and spread") {
  const Table table = full_table(std::vector<Result>{sample_result()});
  const std::vector<std::string> first(table.header.begin(), table.header.begin() + 8);
  CHECK(first == std::vector<std::string>{"name", "metric", "target", "actual", "dtype", "device",
                                          "arch", "is_model"});
  CHECK(at(table, 0, "target") == "94.000000");
  CHECK(at(table, 0, "actual") == "188.000000");
  CHECK(at(table, 0, "is_model") == "True");
  CHECK(at(table, 0, "ratio_to_target") == "2.000000");
  CHECK(at(table, 0, "ceiling_percent") == "80.000000");
  CHECK(at(table, 0, "spread_percent") == "1.063830");
  CHECK(at(table, 0, "samples") == "3");
  CHECK(at(table, 0, "power_w") == "512.250000");
  CHECK(at(table, 0, "clock_mhz").empty());
  CHECK(at(table, 0, "layers") == "32");
  CHECK(at(table, 0, "share") == "0.500000");
}

TEST_CASE("a column that only some results have is 0 in the others") {
  Result plain = sample_result();
  plain.columns = {{"commit", std::string("abc")}};
  plain.target = 0;
  const Table table = full_table(std::vector<Result>{sample_result(), plain});
  CHECK(at(table, 0, "commit") == "0");
  CHECK(at(table, 1, "commit") == "abc");
  CHECK(at(table, 1, "layers") == "0");
  CHECK(at(table, 1, "ratio_to_target") == "0.000000");
}

TEST_CASE("CSV comes back as it went, whatever is in its cells") {
  const Table table = {{"name", "metric"},
                       {{"plain", "with, comma"}, {"a \"quoted\" word", "two\nlines"}, {"", "x"}}};
  const std::string text = render_csv(table);
  CHECK(text ==
        "name,metric\nplain,\"with, comma\"\n\"a \"\"quoted\"\" word\",\"two\nlines\"\n,x\n");
  const Table back = parse_csv(text, "t.csv");
  CHECK(back.header == table.header);
  CHECK(back.rows == table.rows);
  CHECK(parse_csv("a,b\r\n1,2\r\n", "t.csv").rows ==
        std::vector<std::vector<std::string>>{{"1", "2"}});
  CHECK(parse_csv("", "t.csv").header.empty());
}

TEST_CASE("short CSV rows are filled with 0, longer ones are refused with their line") {
  CHECK(parse_csv("a,b,c\n1\n1,2,3\n", "t.csv").rows ==
        std::vector<std::vector<std::string>>{{"1", "0", "0"}, {"1", "2", "3"}});
  const auto longer = outcome_of([] { parse_csv("a,b\n1,2\n1,2,3\n", "t.csv"); });
  CHECK(longer.is(ErrorKind::kUsage));
  CHECK(longer.says("t.csv:3: expected at most 2 cells, found 3"));
  CHECK(outcome_of([] { parse_csv("a\n\"open\n", "t.csv"); }).says("t.csv:2"));
  CHECK(outcome_of([] { parse_csv("a\n\"x\"y\n", "t.csv"); }).says("t.csv:2"));
}

TEST_CASE("Markdown and text tables hold every cell") {
  const Table table = {{"name", "actual"}, {{"a|b", "1.50"}, {"long name", "123.00"}}};
  CHECK(render_markdown(table) ==
        "| name | actual |\n|---|---|\n| a\\|b | 1.50 |\n| long name | 123.00 |\n");
  CHECK(render_text(table) == "name       actual\na|b          1.50\nlong name  123.00\n");
}

TEST_CASE("every JSON line is an object of the benchmark database, numbers as numbers") {
  const std::string lines = json_lines(std::vector<Result>{sample_result(), sample_result()});
  std::istringstream stream(lines);
  std::string line;
  int count = 0;
  while (std::getline(stream, line)) {
    ++count;
    const nlohmann::json record = nlohmann::json::parse(line);
    CHECK(record.at("benchmark").at("name") == "engine");
    CHECK(record.at("benchmark").at("mode") == "inference");
    CHECK(record.at("benchmark").at("dtype") == "bfloat16");
    CHECK(record.at("benchmark").at("extra_info").at("device") == "cuda");
    CHECK(record.at("benchmark").at("extra_info").at("arch") == "A card, with a comma");
    CHECK(record.at("benchmark").at("extra_info").at("layers").is_number_integer());
    CHECK(record.at("model").at("name") == "Llama-2-7b-chat-hf");
    CHECK(record.at("model").at("type") == "OSS model");
    CHECK(record.at("model").at("origins") == nlohmann::json::array({"pytorch"}));
    CHECK(record.at("metric").at("name") == "token_per_sec");
    CHECK(record.at("metric").at("benchmark_values") == std::vector<double>{187, 189, 188});
    CHECK(record.at("metric").at("target_value").is_number());
    CHECK(record.at("metric").at("target_value") == 94);
  }
  CHECK(count == 2);
  Result kernel = sample_result();
  kernel.is_model = false;
  CHECK(json_lines(std::vector<Result>{kernel}).find("\"micro-benchmark\"") != std::string::npos);
}

TEST_CASE("a result file grows by rows and by columns, in a folder that is made") {
  const TempDir directory;
  const fs::path path = directory.path() / "deep/er/results.csv";
  Result narrow = sample_result();
  narrow.columns.clear();
  ResultFile(path).append(std::vector<Result>{narrow});
  const std::string before = content(path);
  ResultFile file(path);
  file.append(std::vector<Result>{sample_result()});
  file.append(std::vector<Result>{narrow});
  const Table table = parse_csv(content(path), "results.csv");
  REQUIRE(table.rows.size() == 3);
  CHECK(before.substr(0, before.find('\n')) ==
        content(path).substr(0, before.find('\n')));  // old columns stay where they were
  CHECK(at(table, 0, "layers") == "0");
  CHECK(at(table, 1, "layers") == "32");
  CHECK(at(table, 2, "layers") == "0");
  CHECK(at(table, 1, "weights") == "a\"b");
  const std::string lines = content(directory.path() / "deep/er/results.json");
  CHECK(std::count(lines.begin(), lines.end(), '\n') == 3);
  // Nothing is left of the passing names.
  CHECK(std::distance(fs::directory_iterator(path.parent_path()), fs::directory_iterator()) == 2);
}

TEST_CASE("a file that is no table of results is refused before anything runs") {
  const TempDir directory;
  const auto open = [&](const fs::path& path) {
    return outcome_of([&] { ResultFile file(path); });
  };
  CHECK(open(directory.path() / "results.txt").is(ErrorKind::kUsage));
  CHECK(open(directory.write("other.csv", "x,y\n1,2\n")).says("columns name and metric"));
  CHECK(open(directory.write("broken.csv", "name,metric\n1,2,3\n")).says("broken.csv:2"));
  CHECK(open(directory.write("empty.csv", "")).ok());
  CHECK(open(directory.path() / "other.csv/results.csv").is(ErrorKind::kIo));
}

TEST_CASE("a file that can't be written stays as it was") {
  const TempDir directory;
  const fs::path path = directory.path() / "results.csv";
  ResultFile file(path);
  file.append(std::vector<Result>{sample_result()});
  const std::string csv = content(path), json = content(directory.path() / "results.json");
  // A directory where the passing name of the second file would be: opening it fails for anyone.
  const fs::path in_the_way =
      directory.path() / ("results.json.partial." + std::to_string(::getpid()));
  fs::create_directory(in_the_way);
  const auto failed = outcome_of([&] { file.append(std::vector<Result>{sample_result()}); });
  CHECK(failed.is(ErrorKind::kIo));
  CHECK(failed.says("results.json"));
  CHECK(content(path) == csv);
  CHECK(content(directory.path() / "results.json") == json);
  fs::remove(in_the_way);
  file.append(std::vector<Result>{sample_result()});
  CHECK(parse_csv(content(path), "results.csv").rows.size() == 2);
  CHECK(std::distance(fs::directory_iterator(directory.path()), fs::directory_iterator()) == 2);
}

TEST_CASE("compare gives the ratio of each result that both files have") {
  const Table a = parse_csv(
      "name,metric,target,actual,dtype,device,layers\n"
      "m,tok,0,10.0,int8,cuda,16\nm,tok,0,20.0,int8,cuda,32\nm,tok,0,12.0,int8,cuda,16\n"
      "gone,tok,0,5.0,int8,cuda,16\n",
      "a.csv");
  const Table b = parse_csv(
      "name,metric,actual,dtype,device,layers,more\n"
      "m,tok,30.0,int8,cuda,32,x\nm,tok,18.0,int8,cuda,16,x\nnew,tok,1.0,int8,cuda,16,x\n",
      "b.csv");
  const Table table = compare(a, b);
  REQUIRE(table.rows.size() == 4);
  CHECK(at(table, 0, "layers") == "16");
  CHECK(at(table, 0, "a") == "12.000000");  // the last of its kind
  CHECK(at(table, 0, "ratio") == "1.500000");
  CHECK(at(table, 1, "layers") == "32");
  CHECK(at(table, 1, "ratio") == "1.500000");
  CHECK(at(table, 2, "b") == "-");
  CHECK(at(table, 2, "ratio") == "-");
  CHECK(at(table, 3, "name") == "new");
  CHECK(at(table, 3, "a") == "-");
  CHECK(outcome_of([&] {
          compare(a, parse_csv("name,metric\n", "c.csv"));
        }).says("without the column"));
  CHECK(outcome_of([&] {
          compare(a, parse_csv("name,metric,actual,dtype,device\nm,tok,fast,int8,cuda\n", "c.csv"));
        }).says("found 'fast'"));
}

}  // namespace
}  // namespace engine::bench
