// The models of the experiments: their shapes, and what the source of the experiments gives for
// them on an A100-40GB.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>

#include "engine/model/config.h"

namespace engine::bench {

// 0: the source gives none.
struct ModelTargets {
  double token_per_sec = 0;
  double memory_bandwidth = 0;  // GB/s
  double startup_time = 0;      // s; the source's compilation time
};

struct ModelSpec {
  std::string_view name;   // of the experiment
  std::string_view label;  // in the rows
  std::string_view summary;
  ModelConfig (*config)();  // with the experiment's number of layers
  ModelTargets bf16, int8;  // of exactly that shape, 200 tokens behind a prompt of 6
};

std::span<const ModelSpec> model_specs();

}  // namespace engine::bench
