// The experiment `sdp`: multi-head self-attention as a layer.
//
// x (rows, E) → x · W_inᵀ + b_in (rows, 3 E) → softmax(QKᵀ ÷ √Dh) V → · W_outᵀ + b_out, for a dense
// batch, or a ragged one with lengths int(L · (1 − N(pad, 0.01))) and one of full length. Four
// times, under the source's names: composed of primitive operations and with fused attention, each
// eagerly and replayed as a recorded plan. Mean wall-clock a call; the cache is not flushed. The
// two outputs are compared before anything is timed.
#pragma once

#include <cstdint>
#include <vector>

#include "bench/options.h"
#include "bench/run_context.h"

namespace engine::bench {

// Throws Error{kNumeric} where fused and composed disagree, what a backend throws, and Interrupted.
std::vector<Result> run_sdp(const RunContext& context, const BenchFlags& flags);

// The lengths of a ragged batch: at least 1, one of them `longest`.
std::vector<std::int32_t> padded_lengths(std::int64_t batch, std::int64_t longest, double padding,
                                         std::uint64_t seed);

}  // namespace engine::bench
