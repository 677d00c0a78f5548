// What a step reads and computes, stage by stage, counted from the calls that the model makes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "engine/model/decoder.h"
#include "kernels/backend.h"

namespace engine::bench {

// All the calls of one kind in a step.
struct StageTraffic {
  std::string stage;        // "attention_in"
  double weight_bytes = 0;  // weights and scales read; of experts only those a token uses
  double cache_bytes = 0;   // keys and values read
  double flops = 0;         // multiplications and additions of products and attention
  bool embedding = false;   // reads rows of a table: no part of the model's bytes
};

struct StepTraffic {
  std::vector<StageTraffic> stages;

  // Every parameter but the token embedding, and of a mixture's experts the activated share: what
  // memory_bandwidth counts. Meant for steps of one token.
  double model_bytes() const;
  double cache_bytes() const;
  double flops() const;
};

// The traffic of a step of `tokens` tokens behind `position` others, whose last token's logits are
// wanted. `model` is bound; its weights need not be loaded. With several tokens every expert is
// taken to be read top-k × tokens times over E, at most once.
StepTraffic step_traffic(Backend& backend, const Decoder& model, DType dtype, std::int64_t tokens,
                         std::int64_t position);

}  // namespace engine::bench
