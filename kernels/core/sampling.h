// What a sampling step reads from device memory. Plain data of the same layout on host and device.
#pragma once

#include <cstdint>

namespace engine {

// The filters are applied in this order: repetition penalty, temperature, top-k, top-p, min-p.
struct SamplingParams {
  std::uint64_t seed = 0;
  float temperature = 0.8f;  // 0 is greedy: the largest penalised logit, ties to the lowest id
  float top_p = 1.0f;        // 1 keeps all
  float min_p = 0.0f;        // 0 keeps all
  float repetition_penalty = 1.0f;  // 1 changes nothing
  std::int32_t top_k = 200;         // 0 keeps all
  std::int32_t reserved = 0;        // keeps the size a multiple of 16 bytes
};
static_assert(sizeof(SamplingParams) == 32);

// What a sampling step writes: the id, and whether a logit was NaN or infinite.
struct SampledToken {
  std::int32_t id = 0;
  std::int32_t not_finite = 0;
};
static_assert(sizeof(SampledToken) == 8);

}  // namespace engine
