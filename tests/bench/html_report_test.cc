// The page of a run: well-formed, self-contained, true to its numbers, safe with any text; and its
// file, whole or not there.
#include "bench/html_report.h"

#include <doctest/doctest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "bench/html.h"
#include "bench/report_file.h"
#include "engine/io/utf8.h"
#include "kernels/core/check.h"
#include "tests/bench/example_run.h"
#include "tests/bench/markup.h"
#include "tests/support/outcome.h"
#include "tests/support/temp_dir.h"

namespace engine::bench {
namespace {

namespace fs = std::filesystem;

using test::attribute;
using test::markup_problem;
using test::outcome_of;
using test::start_tags;
using test::TempDir;

RunFacts example_facts() {
  RunFacts facts;
  facts.command = "engine_bench gemv --report page.html";
  facts.hardware = "a card";
  facts.driver = "driver 1.2";
  facts.commit = "abc123";
  facts.date = "2026-11-26 12:00 UTC";
  facts.roof = {.read_gb_per_s = 4000, .product_tflops = 800};
  return facts;
}

// The parts of a page from each `marker` to the next.
std::vector<std::string> pieces(const std::string& page, const std::string& marker) {
  std::vector<std::string> all;
  for (std::size_t at = page.find(marker); at != std::string::npos;) {
    const std::size_t next = page.find(marker, at + 1);
    all.push_back(page.substr(at, next == std::string::npos ? next : next - at));
    at = next;
  }
  return all;
}

std::string content(const fs::path& path) {
  std::ifstream stream(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(stream), std::istreambuf_iterator<char>()};
}

std::ptrdiff_t files_in(const fs::path& directory) {
  return std::distance(fs::directory_iterator(directory), fs::directory_iterator());
}

// "60.00%" of the style of the first tag of `row` whose class is `name`; empty without one.
std::string length_of(const std::string& row, const std::string& name) {
  for (const std::string& tag : start_tags(row)) {
    if (attribute(tag, "class") != name) continue;
    const std::string style = attribute(tag, "style");
    return style.substr(style.find(':') + 1);
  }
  return "";
}

TEST_CASE("the reader of markup finds what is wrong") {
  CHECK(markup_problem("<!DOCTYPE html>\n<a b=\"c > d\">x &lt; y<br/></a>\n") == "");
  for (const char* wrong : {"<a>", "<a></b>", "</a>", "a < b", "<a b=c></a>", "<a b=\"c></a>",
                            "a & b", "<a b=\"&\"></a>", "<a b></a>", "<a><b></a></b>"}) {
    CHECK_MESSAGE(markup_problem(wrong) != "", wrong);
  }
}

TEST_CASE("text is escaped, whatever its bytes are") {
  CHECK(escape("a<b>&\"'") == "a&lt;b&gt;&amp;&quot;&#39;");
  CHECK(escape("µs “2 ×”") == "µs “2 ×”");
  CHECK(escape("\xff\xfe") == "\xEF\xBF\xBD\xEF\xBF\xBD");
  CHECK(escape(std::string("\0\x1b\x7f", 3)) == "\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD");
  CHECK(escape("\xEF\xBF\xBF") == "\xEF\xBF\xBD");
  CHECK(escape("a\tb\nc") == "a b c");
  CHECK(escape("") == "");
}

TEST_CASE("figures have three significant digits or all before the point") {
  CHECK(figure(4540.3) == "4540");
  CHECK(figure(144.26) == "144.3");
  CHECK(figure(97.25) == "97.2");
  CHECK(figure(1.253) == "1.25");
  CHECK(figure(0.8563) == "0.856");
  CHECK(figure(0.00187) == "0.00187");
  CHECK(figure(2.5e-7) == "2.50e-07");
  CHECK(figure(0) == "0");
  CHECK(with_unit(4540, "GB/s") == "4540 GB/s");
  CHECK(with_unit(0.5, "") == "0.500");
}

TEST_CASE("a page is well-formed, reads on a phone and asks nobody for anything") {
  const std::vector<Section> sections = {example_gemv()};
  const std::string page = html_report(example_facts(), sections, example_peers());
  CHECK(markup_problem(page) == "");
  CHECK(page.starts_with("<!DOCTYPE html>"));
  CHECK(page.find("name=\"viewport\" content=\"width=device-width, initial-scale=1\"") !=
        std::string::npos);
  CHECK(page.find("prefers-color-scheme:dark") != std::string::npos);
  for (const char* outside : {"<script", " src=", " href=", "url(", "@import", "<link", "<img",
                              "<iframe", " onload", " onclick"}) {
    CHECK_MESSAGE(page.find(outside) == std::string::npos, outside);
  }
  for (const char* said : {"a card", "driver 1.2", "abc123", "2026-11-26 12:00 UTC",
                           "engine_bench gemv --report page.html", "4000 GB/s", "800.0 TFLOP/s",
                           "a vector by a matrix", "fastest: a measurement"}) {
    CHECK_MESSAGE(page.find(said) != std::string::npos, said);
  }
  CHECK(page.find("class=\"warning\"") == std::string::npos);
}

TEST_CASE("bars are as long as their figures, and show what there is") {
  const std::vector<Section> sections = {example_gemv()};
  const std::string page = html_report(example_facts(), sections, example_peers());
  const std::vector<std::string> rows = pieces(page, "<div class=\"bar\">");
  REQUIRE(rows.size() == 3);  // the headline, then a size and the mean
  // Of its own ceiling, on a scale that ends with the peer's 125 %.
  CHECK(length_of(rows[0], "actual") == "60.00%");
  CHECK(length_of(rows[0], "ceiling") == "80.00%");
  CHECK(rows[0].find(">75.0 %<") != std::string::npos);
  // On a scale that ends with the peer's 5000 GB/s.
  CHECK(length_of(rows[1], "actual") == "20.00%");
  CHECK(length_of(rows[1], "ceiling") == "80.00%");
  CHECK(length_of(rows[1], "mark target") == "");
  CHECK(length_of(rows[1], "mark peer") == "");
  CHECK(rows[1].find("target") == std::string::npos);
  CHECK(rows[1].find("25.0 % of the ceiling 4000") != std::string::npos);
  CHECK(length_of(rows[2], "actual") == "60.00%");
  CHECK(length_of(rows[2], "mark target") == "20.00%");
  CHECK(length_of(rows[2], "mark peer") == "100.00%");
  CHECK(rows[2].find("target 1000 (3.00 ×)") != std::string::npos);
  CHECK(rows[2].find("fastest 5000 (0.600 ×)") != std::string::npos);
}

TEST_CASE("without targets, peers and ceilings a page shows the figures alone") {
  Section section = {"sdp", "", {example_row("sdp", "nn_mha_time (µs)", 12)}};
  const std::string page = html_report({}, std::vector<Section>{section}, {});
  CHECK(markup_problem(page) == "");
  const std::vector<std::string> rows = pieces(page, "<div class=\"bar\">");
  REQUIRE(rows.size() == 1);
  CHECK(length_of(rows[0], "actual") == "100.00%");
  CHECK(length_of(rows[0], "ceiling") == "");
  CHECK(page.find("<h2>Roofline") == std::string::npos);
  CHECK(page.find("<h2>At a glance") == std::string::npos);
  CHECK(page.find("Sources of") == std::string::npos);
  CHECK(markup_problem(html_report({}, {}, {})) == "");
}

TEST_CASE("a hostile name stays text wherever it stands") {
  const std::string hostile = "\"><script>alert('x')</script>&\xff\x01";
  std::vector<Section> sections = {example_gemv()};
  sections[0].experiment = sections[0].summary = hostile;
  for (Result& result : sections[0].results) {
    result.name = result.arch = result.device = hostile;
    result.dtype = hostile;
    result.is_model = true;
    result.config = {{hostile, hostile}, {"n", std::int64_t{1}}};
  }
  std::vector<Peer> peers = example_peers();
  for (Peer& peer : peers) {
    peer.name = peer.arch = peer.dtype = peer.program = peer.source = hostile;
  }
  RunFacts facts = example_facts();
  for (std::string* text : {&facts.command, &facts.hardware, &facts.backend, &facts.driver,
                            &facts.build, &facts.commit, &facts.date, &facts.warning}) {
    *text = hostile;
  }
  const std::string page = html_report(facts, sections, peers);
  CHECK(markup_problem(page) == "");
  CHECK(is_utf8(page));
  CHECK(page.find("<script") == std::string::npos);
  CHECK(page.find("&lt;script&gt;") != std::string::npos);
  CHECK(page.find('\x01') == std::string::npos);
  CHECK(length_of(pieces(page, "<div class=\"bar\">").back(), "mark peer") == "100.00%");
}

TEST_CASE("a long list of bars is folded behind its headlines") {
  Section section = {"many", "", {}};
  for (int i = 0; i < 20; ++i) {
    Result row = example_row("many", "rate_" + std::to_string(i) + "(GB/s)", 1 + i);
    row.headline = i == 7;
    section.results.push_back(row);
  }
  const std::string page = html_report({}, std::vector<Section>{section}, {});
  CHECK(markup_problem(page) == "");
  CHECK(page.find("All 20 bars") != std::string::npos);
  CHECK(pieces(page, "<div class=\"bar\">").size() == 21);
  CHECK(page.find(">rate_7<") < page.find("All 20 bars"));
  CHECK(page.find(">rate_8<") > page.find("All 20 bars"));
}

TEST_CASE("the files of a report are written whole, in folders that are made") {
  const TempDir directory;
  const fs::path page = directory.path() / "deep/er/page.html";
  const fs::path picture = directory.path() / "deep/er/picture.svg";
  const ReportFile file(page, picture);
  CHECK(files_in(page.parent_path()) == 0);  // trying leaves nothing behind
  const std::vector<Section> sections = {example_gemv()};
  file.write(example_facts(), sections, example_peers());
  CHECK(content(page) == html_report(example_facts(), sections, example_peers()));
  CHECK(content(picture).starts_with("<svg "));
  CHECK(content(picture).find("driver 1.2, commit abc123, 2026-11-26 12:00 UTC") !=
        std::string::npos);
  CHECK(files_in(page.parent_path()) == 2);
  file.write({}, sections, {});  // in place of the old ones
  CHECK(content(page) == html_report({}, sections, {}));
  CHECK(files_in(page.parent_path()) == 2);
}

TEST_CASE("a report that can't be written is refused before anything runs, and leaves nothing") {
  const TempDir directory;
  const fs::path file = directory.write("file.html", "old");
  const auto open = [&](const fs::path& page, const fs::path& picture) {
    return outcome_of([&] { ReportFile report(page, picture); });
  };
  CHECK(open(directory.path() / "page.txt", {}).is(ErrorKind::kUsage));
  CHECK(open({}, directory.path() / "picture.html").says("--picture: expected FILE.svg"));
  CHECK(open(file / "page.html", {}).is(ErrorKind::kIo));
  fs::create_directory(directory.path() / "folder.html");
  CHECK(open(directory.path() / "folder.html", {}).says("--report: "));
  const fs::path page = directory.path() / "page.html";
  // A directory where the passing name would be: opening it fails for anyone.
  const fs::path in_the_way = page.string() + ".partial." + std::to_string(::getpid());
  fs::create_directory(in_the_way);
  const auto failed = open(page, {});
  CHECK(failed.is(ErrorKind::kIo));
  CHECK(failed.says("page.html"));
  fs::remove(in_the_way);
  CHECK(content(file) == "old");
  CHECK(files_in(directory.path()) == 2);

  // The second file fails late: the first one stays as it was.
  const ReportFile both(file, directory.path() / "picture.svg");
  const fs::path late = directory.path() / ("picture.svg.partial." + std::to_string(::getpid()));
  fs::create_directory(late);
  CHECK(outcome_of([&] { both.write({}, {}, {}); }).is(ErrorKind::kIo));
  CHECK(content(file) == "old");
  fs::remove(late);
  CHECK(files_in(directory.path()) == 2);
}

}  // namespace
}  // namespace engine::bench
