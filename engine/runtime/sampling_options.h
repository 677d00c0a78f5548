// Which sampling parameters take effect, and where each came from.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "engine/model/generation_config.h"
#include "kernels/core/sampling.h"

namespace engine {

// What the command line gave; absent fields were not given.
struct SamplingFlags {
  std::optional<double> temperature, top_p, min_p, repetition_penalty;
  std::optional<std::int64_t> top_k;
};

struct SamplingChoice {
  SamplingParams params;    // the seed is the caller's to set
  std::string description;  // "temperature 0.8 (default), top-k 50 (generation_config.json), …"
};

// A flag wins over a field present in generation_config.json (`do_sample: false` there means
// temperature 0), which wins over the defaults 0.8 / 200 / 1 / 0 / 1. Throws Error{kUsage} for a
// flag and Error{kModel} for a field out of its range: temperature ≥ 0, top-k ≥ 0 (0: all), 0 <
// top-p ≤ 1, 0 ≤ min-p ≤ 1, repetition penalty 0.001 to 1000.
SamplingChoice choose_sampling(const SamplingFlags& flags, const GenerationConfig& file);

}  // namespace engine
