// Kernels that memory bounds, each by itself: the experiments gemv, gather_gemv, layer_norm and
// mlp_layer_norm_gelu.
//
// Every size is compared with its double-precision oracle on fresh random operands, then timed: at
// least 20 samples behind a flushed cache, the median counting; with --steady replays of a recorded
// step whose calls take turns over several sets of operands, larger together than the cache. Rows:
// one a size, memory_bandwidth_D(GB/s), and the mean over the sizes under the source's own name.
// The bytes are those of the weights (GEMVs, MLP), or of x and out (layer_norm).
#pragma once

#include <vector>

#include "bench/options.h"
#include "bench/run_context.h"

namespace engine::bench {

// In bf16, and with --int8 raw int8 matrices. Each throws Error{kNumeric} where a result is wrong.
std::vector<Result> run_gemv(const RunContext& context, const BenchFlags& flags);
std::vector<Result> run_gather_gemv(const RunContext& context, const BenchFlags& flags);
// bf16 alone: throws Error{kUsage} for --int8.
std::vector<Result> run_layer_norm(const RunContext& context, const BenchFlags& flags);
std::vector<Result> run_mlp_layer_norm_gelu(const RunContext& context, const BenchFlags& flags);

}  // namespace engine::bench
