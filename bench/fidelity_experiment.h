// How close int8 weights keep a real checkpoint to itself, on a text.
#pragma once

#include <vector>

#include "bench/options.h"
#include "bench/run_context.h"

namespace engine::bench {

// Needs --model and --text. Throws Error{kUsage} without them, and what loading throws.
std::vector<Result> run_fidelity(const RunContext& context, const BenchFlags& flags);

}  // namespace engine::bench
