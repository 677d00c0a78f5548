// Drawing from a backend's sample op, many times without waiting for any.
#pragma once

#include <cstring>
#include <vector>

#include "tests/support/backends.h"
#include "tests/support/closeness.h"
#include "tests/support/guarded.h"

namespace engine::test {

// One row of logits from a normal-like distribution (a sum of uniforms), rounded to f32.
inline Values random_logits(std::int64_t vocabulary, std::uint64_t seed, double spread = 2.0) {
  Random random(seed);
  Values logits;
  for (std::int64_t i = 0; i < vocabulary; ++i) {
    double sum = 0.0;
    for (int term = 0; term < 6; ++term) sum += random.uniform(-1.0, 1.0);
    logits.push_back(reference::round_to(DType::kF32, spread / std::sqrt(2.0) * sum));
  }
  return logits;
}

struct Draw {
  SamplingParams params;
  std::int32_t position = 0;  // of token 0 of the step
};

struct Drawn {
  std::vector<SampledToken> tokens;
  Values next_ids, positions;      // one per draw
  std::vector<std::uint8_t> seen;  // (draws, V) afterwards
};

inline std::vector<std::uint8_t> bytes_of(const Values& values) {
  std::vector<std::uint8_t> bytes;
  for (const double value : values) bytes.push_back(static_cast<std::uint8_t>(value));
  return bytes;
}

// The bytes of parameters, as a tensor takes them.
inline Values values_of(const SamplingParams& params) {
  std::uint8_t raw[sizeof(params)];
  std::memcpy(raw, &params, sizeof(raw));
  return {std::begin(raw), std::end(raw)};
}

// Every draw has its own parameters, position, history (a copy of `seen`) and results, in rows of a
// few tensors; one read at the end.
inline Drawn draw(Backend& backend, const Values& logits, const std::vector<std::uint8_t>& seen,
                  const std::vector<Draw>& draws, std::int32_t advance = 1) {
  const auto count = static_cast<std::int64_t>(draws.size());
  const auto vocabulary = static_cast<std::int64_t>(logits.size());
  Values params, positions, history;
  for (const Draw& d : draws) {
    const Values own = values_of(d.params);
    params.insert(params.end(), own.begin(), own.end());
    positions.push_back(d.position);
    history.insert(history.end(), seen.begin(), seen.end());
  }
  const auto params_size = static_cast<std::int64_t>(sizeof(SamplingParams));
  const Guarded logits_tensor(backend, DType::kF32, {vocabulary}, logits);
  const Guarded params_tensor(backend, DType::kU8, {count * params_size}, params);
  Guarded position_tensor(backend, DType::kI32, {count}, positions);
  Guarded seen_tensor(backend, DType::kU8, {count * vocabulary}, history);
  Guarded next_tensor(backend, DType::kI32, {count}), sampled(backend, DType::kI32, {2 * count});
  for (std::int64_t i = 0; i < count; ++i) {
    backend.ops().sample({.logits = logits_tensor,
                          .params = params_tensor.tensor().slice(0, i * params_size, params_size),
                          .seen = seen_tensor.tensor().slice(0, i * vocabulary, vocabulary),
                          .position = position_tensor.tensor().slice(0, i, 1),
                          .next_ids = next_tensor.tensor().slice(0, i, 1),
                          .sampled = sampled.tensor().slice(0, 2 * i, 2),
                          .advance = advance});
  }
  Drawn drawn;
  const Values flat = sampled.get("sampled");
  for (std::size_t i = 0; i < flat.size(); i += 2) {
    drawn.tokens.push_back(
        {static_cast<std::int32_t>(flat[i]), static_cast<std::int32_t>(flat[i + 1])});
  }
  drawn.next_ids = next_tensor.get("next_ids");
  drawn.positions = position_tensor.get("position");
  drawn.seen = bytes_of(seen_tensor.get("seen"));
  return drawn;
}

inline std::vector<std::uint8_t> unseen(const Values& logits) {
  return std::vector<std::uint8_t>(logits.size(), 0);
}

}  // namespace engine::test
