// The order of a measurement: warm-up, then a flush before each sample; and the prompt of a run.
#include "bench/harness.h"

#include <doctest/doctest.h>

#include <string>
#include <vector>

#include "bench/model_experiment.h"
#include "bench/registry.h"
#include "tests/support/outcome.h"

namespace engine::bench {
namespace {

// Notes what is asked of it: w for the work, f for a flush, ( and ) around what is timed.
class NotingMeasure final : public Measure {
 public:
  std::string notes;
  double next_s = 0;

  std::size_t cache_bytes() const override { return 0; }
  void flush_cache() override { notes += 'f'; }
  double time(const std::function<void()>& issue) override {
    notes += '(';
    issue();
    notes += ')';
    return next_s += 1;
  }
  void read(const Tensor&) override {}
  void copy(const Tensor&, const Tensor&) override {}
  void fill_normal(const Tensor&, float, RandomSource) override {}
  void fill_constant(const Tensor&, float) override {}
  Telemetry telemetry() override {
    notes += 't';
    return {};
  }
  std::string driver() override { return {}; }
};

TEST_CASE("a kernel is timed after five warm-up calls, each sample on a flushed cache") {
  NotingMeasure measure;
  const Timing timing = time_cold(
      measure, [&] { measure.notes += 'w'; }, 3);
  CHECK(measure.notes == "wwwwwf(w)f(w)f(w)t");
  CHECK(timing.seconds == std::vector<double>{1, 2, 3});
  CHECK(time_cold(measure, [] {}).seconds.size() == 20);
  measure.notes.clear();
  time_warm(
      measure, [&] { measure.notes += 'w'; }, 2, 1);
  CHECK(measure.notes == "w(w)(w)t");
}

TEST_CASE("a prompt is the experiments' six ids, then drawn from the seed, all in the vocabulary") {
  CHECK(prompt_ids(6, 32000, 1) == std::vector<std::int32_t>{1, 15043, 29892, 590, 1024, 338});
  CHECK(prompt_ids(2, 32000, 1) == std::vector<std::int32_t>{1, 15043});
  const std::vector<std::int32_t> longer = prompt_ids(1000, 512, 1);
  CHECK(longer[1] == 15043 % 512);
  for (const std::int32_t id : longer) CHECK((id >= 0 && id < 512));
  CHECK(prompt_ids(1000, 512, 1) == longer);
  CHECK(prompt_ids(1000, 512, 2) != longer);
}

TEST_CASE("all stands for the standard runs, and a name that nobody knows lists those known") {
  BenchFlags flags;
  flags.words = {"ceilings", "all"};
  flags.layers = 3;
  const std::vector<Order> orders = plan_run(flags);
  REQUIRE(orders.size() == 5);
  CHECK(orders[0].experiment->name == "ceilings");
  CHECK(orders[1].experiment->name == "llama2-7b");
  CHECK(!orders[1].flags.int8);
  CHECK(orders[2].experiment->name == "llama2-7b");
  CHECK(orders[2].flags.int8);
  CHECK(orders[3].experiment->name == "mixtral-8x7b");
  CHECK(orders[3].flags.int8);
  CHECK(orders[3].flags.layers == 3);
  flags.words = {"llama3"};
  const auto unknown = test::outcome_of([&] { plan_run(flags); });
  CHECK(unknown.is(ErrorKind::kUsage));
  for (const Experiment& experiment : experiments()) CHECK(unknown.says(experiment.name));
}

}  // namespace
}  // namespace engine::bench
