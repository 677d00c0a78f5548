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
  void fill_uniform(const Tensor&, RandomSource) override {}
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

TEST_CASE("targets stand beside exactly the source's experiments") {
  for (const ModelSpec& spec : model_specs()) {
    BenchFlags flags;
    const bool llama = spec.name == "llama2-7b", mixtral = spec.name == "mixtral-8x7b";
    CHECK(targets_for(flags, spec).token_per_sec == (llama ? 94 : 0));
    CHECK(targets_for(flags, spec).memory_bandwidth == (llama ? 1253 : 0));
    CHECK(targets_for(flags, spec).startup_time == (llama ? 162 : 0));
    flags.int8 = true;
    CHECK(targets_for(flags, spec).token_per_sec == (llama ? 144 : mixtral ? 175 : 0));
    CHECK(targets_for(flags, spec).memory_bandwidth == (llama ? 957 : mixtral ? 1130 : 0));
    CHECK(targets_for(flags, spec).startup_time == (llama ? 172 : mixtral ? 162 : 0));
    const BenchFlags exact = flags;
    flags.layers = 32;
    CHECK(targets_for(flags, spec).token_per_sec == (llama ? 144 : 0));
    for (const auto& change : std::vector<void (*)(BenchFlags&)>{
             [](BenchFlags& f) { f.layers = 2; }, [](BenchFlags& f) { f.max_new_tokens = 199; },
             [](BenchFlags& f) { f.prompt_len = 7; }, [](BenchFlags& f) { f.model = "dir"; },
             [](BenchFlags& f) { f.dtype = DType::kF16; }}) {
      flags = exact;
      change(flags);
      CHECK(targets_for(flags, spec).token_per_sec == 0);
    }
  }
}

TEST_CASE("all stands for the standard runs, and a name that nobody knows lists those known") {
  BenchFlags flags;
  flags.words = {"ceilings", "all"};
  flags.layers = 3;
  const std::vector<Order> orders = plan_run(flags);
  std::string names;
  for (const Order& order : orders) {
    names += std::string(order.experiment->name) + (order.flags.int8 ? "+int8 " : " ");
    CHECK(order.flags.layers == 3);
  }
  CHECK(names ==
        "ceilings llama2-7b llama2-7b+int8 mixtral-8x7b+int8 gemv gemv+int8 gather_gemv "
        "gather_gemv+int8 layer_norm mlp_layer_norm_gelu sdp score_mod ceilings ");
  CHECK(orders[11].flags.backward);
  flags.words = {"llama3"};
  const auto unknown = test::outcome_of([&] { plan_run(flags); });
  CHECK(unknown.is(ErrorKind::kUsage));
  for (const Experiment& experiment : experiments()) CHECK(unknown.says(experiment.name));
}

}  // namespace
}  // namespace engine::bench
