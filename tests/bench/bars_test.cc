// What the bars of a report are: which results share a scale, how long they are, what they are
// called.
#include "bench/bars.h"

#include <doctest/doctest.h>

#include <string>
#include <vector>

#include "tests/bench/example_run.h"

namespace engine::bench {
namespace {

TEST_CASE("metrics have units, and some count down") {
  CHECK(unit_of("copy(GB/s)") == "GB/s");
  CHECK(unit_of("nn_mha_time (µs)") == "µs");
  CHECK(unit_of("prefill_512_token_per_sec") == "tokens/s");
  CHECK(unit_of("fwd_speedup") == "");
  CHECK(unit_of("flops_utilization(source formula)") == "");
  CHECK(without_unit("copy(GB/s)") == "copy");
  CHECK(without_unit("nn_mha_time (µs)") == "nn_mha_time");
  CHECK(without_unit("flops_utilization(source formula)") == "flops_utilization(source formula)");
  CHECK(without_unit("token_per_sec") == "token_per_sec");
  CHECK(lower_is_better("startup_time(s)"));
  CHECK(lower_is_better("nn_mha_time (µs)"));
  CHECK(lower_is_better("peak_memory(GB)"));
  CHECK(lower_is_better("flops_utilization(source formula)"));
  CHECK_FALSE(lower_is_better("copy(GB/s)"));
  CHECK_FALSE(lower_is_better("token_per_sec"));
  CHECK_FALSE(lower_is_better("flops_utilization"));
}

TEST_CASE("rates of one unit share a scale: the largest of results, targets, peers and ceilings") {
  const Section section = example_gemv();
  const std::vector<BarGroup> groups = bar_groups(section, example_peers());
  REQUIRE(groups.size() == 1);
  const BarGroup& group = groups[0];
  CHECK(group.scale == 5000);  // the peer's, above the ceiling of 4000
  CHECK(group.title == "bfloat16");
  REQUIRE(group.bars.size() == 2);
  CHECK(group.bars[0].label == "memory_bandwidth_1024");
  CHECK(group.bars[1].label == "memory_bandwidth (mean)");
  CHECK(group.bars[0].unit == "GB/s");
  CHECK(length_percent(group, group.bars[0], group.bars[0].actual) == doctest::Approx(20));
  CHECK(length_percent(group, group.bars[1], group.bars[1].actual) == doctest::Approx(60));
  CHECK(length_percent(group, group.bars[1], group.bars[1].ceiling) == doctest::Approx(80));
  CHECK(length_percent(group, group.bars[1], 5000) == 100);
  CHECK(length_percent(group, group.bars[1], 1e9) == 100);
  CHECK(times_better(group, 3000, 1000) == 3);
  CHECK(times_better(group, 3000, 0) == 0);
}

TEST_CASE("times share a scale where the problem is the same, and less of them is better") {
  Section section = {"sdp", "", {}};
  for (const double padding : {0.0, 0.9}) {
    for (const char* metric : {"nn_mha_time (µs)", "composite_mha_time (µs)"}) {
      Result row = example_row("sdp", metric, 100 * (1 - padding));
      row.config = {{"batch_size", std::int64_t{3}}, {"pad_percentage", padding}};
      section.results.push_back(row);
    }
  }
  const std::vector<BarGroup> groups = bar_groups(section, {});
  REQUIRE(groups.size() == 2);
  CHECK(groups[0].lower_is_better);
  CHECK(groups[0].scale == 100);
  CHECK(groups[1].scale == doctest::Approx(10));
  CHECK(groups[1].title == "bfloat16, batch_size 3, pad_percentage 0.9");
  CHECK(groups[1].bars[1].label == "composite_mha_time");
  CHECK(times_better(groups[0], 50, 100) == 2);
}

TEST_CASE("a ratio has a bar only where something is set against it") {
  Section section = {"score_mod", "", {example_row("score_mod", "fwd_speedup", 0.99)}};
  CHECK(bar_groups(section, {}).empty());
  section.results[0].ceiling = 1;
  CHECK(bar_groups(section, {}).size() == 1);
}

TEST_CASE("headlines are shares of their own ceilings") {
  std::vector<Section> sections = {example_gemv()};
  Result slow = example_row("other", "startup_time(s)", 1);
  slow.headline = true;
  slow.ceiling = 2;  // a ceiling of a time would read the wrong way round
  Result bare = example_row("other", "token_per_sec", 10);
  bare.headline = true;
  sections.push_back({"other", "", {slow, bare}});
  const BarGroup group = headlines(sections, example_peers());
  REQUIRE(group.bars.size() == 1);
  const Bar& bar = group.bars[0];
  CHECK(bar.label == "gemv, bfloat16");
  CHECK(group.of_ceiling);
  CHECK(group.scale == doctest::Approx(1.25));  // the peer's share
  CHECK(length_percent(group, bar, bar.ceiling) == doctest::Approx(80));
  CHECK(length_percent(group, bar, bar.actual) == doctest::Approx(60));
  CHECK(headlines({}, {}).bars.empty());
}

}  // namespace
}  // namespace engine::bench
