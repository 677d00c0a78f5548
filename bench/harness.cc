#include "bench/harness.h"

#include "kernels/core/check.h"

namespace engine::bench {

Timing time_cold(Measure& measure, const std::function<void()>& issue, int samples) {
  ENGINE_REQUIRE(samples > 0, "a timing of ", samples, " samples");
  for (int i = 0; i < kWarmUps; ++i) issue();
  Timing timing;
  for (int i = 0; i < samples; ++i) {
    measure.flush_cache();
    timing.seconds.push_back(measure.time(issue));
  }
  timing.telemetry = measure.telemetry();
  return timing;
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
