// Draws the next token.
//
// No sorting and no scratch that grows with the vocabulary: a filter keeps the ids whose penalised
// logit reaches a threshold, and the threshold is found digit by digit (radix selection) on the
// logits' bits mapped to integers of the same order — by count for top-k, by probability mass for
// top-p — so that ties fall out right by themselves. Temperature is positive and does not change
// the order, so thresholds apply before it. Probabilities are exp((l − max l) ÷ temperature) in
// double, relative to the most probable id; every sum runs in order of id and digit.
#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>

#include "kernels/core/philox.h"
#include "kernels/cpu/launchers.h"

namespace engine::cpu {
namespace {

struct Candidates {
  const float* logits;
  const std::uint8_t* seen;
  std::int64_t vocabulary;
  SamplingParams params;
  float highest = 0.0f;   // the largest penalised logit
  std::int32_t best = 0;  // the lowest id that has it

  // The penalised logit; never infinite, so that differences are defined.
  float operator[](std::int64_t id) const {
    float l = logits[id];
    if (seen[id] != 0) {
      l = l > 0.0f ? l / params.repetition_penalty : l * params.repetition_penalty;
    }
    constexpr float kMost = std::numeric_limits<float>::max();
    return std::clamp(l, -kMost, kMost);
  }
  // Probability relative to the most probable id.
  double weight(float l) const {
    return std::exp((static_cast<double>(l) - static_cast<double>(highest)) /
                    static_cast<double>(params.temperature));
  }
};

// Bits that order as the floats do; −0 counts as 0.
std::uint32_t order_key(float value) {
  const auto bits = std::bit_cast<std::uint32_t>(value + 0.0f);
  return (bits & 0x80000000u) != 0 ? ~bits : bits | 0x80000000u;
}

// The largest key such that the ids at or above it have a total measure of at least `target`;
// only ids at or above `floor` count. With `target` out of reach, the smallest key there is.
// `measure(logit)` is 1 for counting, a probability for mass.
template <typename Measure>
std::uint32_t threshold(const Candidates& candidates, std::uint32_t floor, double target,
                        const Measure& measure) {
  std::uint32_t prefix = 0, decided = 0;  // the digits found so far, and which bits they are
  double above = 0.0;                     // measure of the ids beyond the prefix
  for (int shift = 24; shift >= 0; shift -= 8) {
    std::array<double, 256> bins{};
    std::array<bool, 256> present{};
    for (std::int64_t id = 0; id < candidates.vocabulary; ++id) {
      const float l = candidates[id];
      const std::uint32_t key = order_key(l);
      if (key < floor || (key & decided) != prefix) continue;
      const std::uint32_t digit = (key >> shift) & 0xffu;
      bins[digit] += measure(l);
      present[digit] = true;
    }
    std::uint32_t chosen = 0;
    double beyond = above;
    for (std::uint32_t digit = 256; digit-- > 0;) {
      if (!present[digit]) continue;
      chosen = digit;  // the lowest present one, should rounding keep the target out of reach
      above = beyond;
      beyond += bins[digit];
      if (beyond >= target) break;
    }
    prefix |= chosen << shift;
    decided |= 0xffu << shift;
  }
  return prefix;
}

// The lowest key that passes top-k and top-p.
std::uint32_t filter(const Candidates& candidates) {
  const SamplingParams& params = candidates.params;
  std::uint32_t floor = 0;
  if (params.top_k > 0 && params.top_k < candidates.vocabulary) {
    floor = threshold(candidates, floor, params.top_k, [](float) { return 1.0; });
  }
  if (params.top_p < 1.0f) {
    const auto mass = [&](float l) { return candidates.weight(l); };
    double total = 0.0;
    for (std::int64_t id = 0; id < candidates.vocabulary; ++id) {
      const float l = candidates[id];
      if (order_key(l) >= floor) total += mass(l);
    }
    floor = threshold(candidates, floor, static_cast<double>(params.top_p) * total, mass);
  }
  return floor;
}

// argmax of p ÷ e over the ids kept: a draw from their renormalised distribution.
std::int32_t draw(const Candidates& candidates, std::uint32_t position) {
  const std::uint32_t floor = filter(candidates);
  const double least = static_cast<double>(candidates.params.min_p);
  double best_score = -1.0;
  std::int32_t best = candidates.best;
  std::uint32_t block = std::numeric_limits<std::uint32_t>::max();
  Philox4 bits{};
  for (std::int64_t id = 0; id < candidates.vocabulary; ++id) {
    const float l = candidates[id];
    if (order_key(l) < floor) continue;
    const double weight = candidates.weight(l);
    if (weight < least) continue;
    const auto wanted = static_cast<std::uint32_t>(id / 4);
    if (wanted != block) {
      block = wanted;
      bits = sampling_bits(candidates.params.seed, position, block);
    }
    const double e = -std::log(static_cast<double>(uniform_open(bits.word[id % 4])));
    const double score = weight / e;
    if (score > best_score) {
      best_score = score;
      best = static_cast<std::int32_t>(id);
    }
  }
  return best;
}

}  // namespace

void sample(const Context& context, const SampleCall& call) {
  context.poll();
  Candidates candidates = {.logits = call.logits.as<float>(),
                           .seen = call.seen.as<std::uint8_t>(),
                           .vocabulary = call.logits.size(0),
                           .params = {}};
  std::memcpy(&candidates.params, call.params.data, sizeof(SamplingParams));
  auto* position = call.position.as<std::int32_t>();

  SampledToken sampled;
  candidates.highest = -std::numeric_limits<float>::infinity();
  for (std::int64_t id = 0; id < candidates.vocabulary; ++id) {
    if (!std::isfinite(candidates.logits[id])) sampled.not_finite = 1;
    const float l = candidates[id];
    if (l > candidates.highest) {
      candidates.highest = l;
      candidates.best = static_cast<std::int32_t>(id);
    }
  }
  if (sampled.not_finite == 0) {
    const auto next = static_cast<std::uint32_t>(*position + call.advance);
    sampled.id = candidates.params.temperature > 0.0f ? draw(candidates, next) : candidates.best;
  }
  *position += call.advance;
  call.sampled.as<SampledToken>()[*position % (call.sampled.size(0) / 2)] = sampled;
  *call.next_ids.as<std::int32_t>() = sampled.id;
  call.seen.as<std::uint8_t>()[sampled.id] = 1;
}

}  // namespace engine::cpu
