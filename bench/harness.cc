#include "bench/harness.h"

#include "kernels/core/check.h"

namespace engine::bench {
namespace {

double cold_seconds(Measure& measure, const std::function<void()>& issue) {
  measure.flush_cache();
  return measure.time(issue);
}

}  // namespace

Timing time_cold(Measure& measure, const std::function<void()>& issue, int samples) {
  ENGINE_REQUIRE(samples > 0, "a timing of ", samples, " samples");
  for (int i = 0; i < kWarmUps; ++i) issue();
  Timing timing;
  for (int i = 0; i < samples; ++i) timing.seconds.push_back(cold_seconds(measure, issue));
  timing.telemetry = measure.telemetry();
  return timing;
}

std::pair<Timing, Timing> time_cold_in_turn(Measure& measure, const std::function<void()>& first,
                                            const std::function<void()>& second, int samples) {
  ENGINE_REQUIRE(samples > 0, "a timing of ", samples, " samples");
  for (int i = 0; i < kWarmUps; ++i) first(), second();
  std::pair<Timing, Timing> timings;
  for (int i = 0; i < samples; ++i) {
    timings.first.seconds.push_back(cold_seconds(measure, first));
    timings.second.seconds.push_back(cold_seconds(measure, second));
  }
  timings.first.telemetry = timings.second.telemetry = measure.telemetry();
  return timings;
}

Timing time_warm(Measure& measure, const std::function<void()>& issue, int samples, int warm_ups) {
  ENGINE_REQUIRE(samples > 0, "a timing of ", samples, " samples");
  for (int i = 0; i < warm_ups; ++i) issue();
  Timing timing;
  for (int i = 0; i < samples; ++i) timing.seconds.push_back(measure.time(issue));
  timing.telemetry = measure.telemetry();
  return timing;
}

}  // namespace engine::bench
