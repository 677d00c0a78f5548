// The experiment `score_mod`: attention with a score function.
//
// q, k and v uniform in [0, 1), stored (B, S, H · Dh) and seen as (B, S, H, Dh). The baseline is
// our own fused attention without a score function; a further column is attention composed of
// primitives. Each is compared with the double-precision oracle before it is timed. Rows give time,
// TFLOP/s (of what the mask leaves, counted as half where causal) and speed-up over the baseline,
// forward and, on request, of the gradients (2.5 times the operations); then the average, greatest
// and least speed-up.
#pragma once

#include <vector>

#include "bench/options.h"
#include "bench/run_context.h"

namespace engine::bench {

// Throws Error{kNumeric} where a result is not the oracle's, what a backend throws, and
// Interrupted.
std::vector<Result> run_score_mod(const RunContext& context, const BenchFlags& flags);

}  // namespace engine::bench
