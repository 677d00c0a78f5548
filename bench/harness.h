// How kernels are timed: warm-up, then samples, each on a cold cache between two device timers.
#pragma once

#include <functional>
#include <utility>
#include <vector>

#include "kernels/measure.h"

namespace engine::bench {

inline constexpr int kWarmUps = 5;
inline constexpr int kKernelSamples = 20;

struct Timing {
  std::vector<double> seconds;  // of each sample
  Telemetry telemetry;          // right after the last
};

// `samples` times of what `issue` issues, each after the last-level cache was flushed by reading;
// kWarmUps untimed calls come first.
Timing time_cold(Measure& measure, const std::function<void()>& issue,
                 int samples = kKernelSamples);

// The same of two kinds of work in turn, sample by sample, for a ratio of theirs that a clock which
// changes meanwhile does not change. The telemetry is that of both.
std::pair<Timing, Timing> time_cold_in_turn(Measure& measure, const std::function<void()>& first,
                                            const std::function<void()>& second,
                                            int samples = kKernelSamples);

// The same on whatever the call before left in the caches: for work much larger than they are.
Timing time_warm(Measure& measure, const std::function<void()>& issue, int samples, int warm_ups);

}  // namespace engine::bench
