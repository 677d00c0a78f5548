// The RoPE part of config.json, in both schemas that are in use:
//   rope_theta at the top, with an optional rope_scaling {rope_type or type, factor, ...}
//   rope_parameters {rope_theta, rope_type, ...} (transformers 5)
#pragma once

#include <cstdint>

#include "engine/model/json_fields.h"
#include "engine/model/rope.h"

namespace engine {

// Reads every place that a RoPE parameter can stand in. A parameter given twice must have the same
// value both times. Absent ones: theta is `default_theta`, the context before scaling is
// `max_positions`, beta_fast 32, beta_slow 1. Errors: kModel for a conflict, a missing or a
// malformed parameter; kUnsupported, by name, for other kinds (dynamic, longrope), for yarn's
// mscale, mscale_all_dim and truncate: false, for partial rotation and for unknown parameters.
RopeConfig parse_rope_config(const JsonFields& config, double default_theta,
                             std::int64_t max_positions);

}  // namespace engine
