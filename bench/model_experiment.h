// Decoding with a whole model: the experiments llama2-7b, mixtral-8x7b and llama-1b.
//
// A run is a prompt of 6 ids and 200 new tokens at temperature 0.8 and top-k 200, whatever is
// drawn. After one untimed run, the window of each sample holds prefill, tokens and sampling;
// tokens/s and memory_bandwidth (the model's bytes, as step_traffic.h counts them, times tokens/s)
// are means over the samples. startup_time goes from weights in their stored type to the end of the
// first run, less the median later run: quantising, packing, recording and loading of modules.
// peak_memory is what the backend had allocated at most, so a matrix that is being quantised counts
// beside its result.
#pragma once

#include <cstdint>
#include <vector>

#include "bench/models.h"
#include "bench/options.h"
#include "bench/run_context.h"

namespace engine::bench {

// Throws what loading and running throw, and Interrupted.
std::vector<Result> run_model(const RunContext& context, const BenchFlags& flags,
                              const ModelSpec& spec);

// The source's targets where `flags` ask for exactly its own experiment, else none.
ModelTargets targets_for(const BenchFlags& flags, const ModelSpec& spec);

// The prompt: `count` ids below `vocab`, the experiments' own six first, then drawn from the seed.
std::vector<std::int32_t> prompt_ids(std::int64_t count, std::int64_t vocab, std::uint64_t seed);

}  // namespace engine::bench
