// Draws the next token.
//
// A filter keeps the ids whose penalised logit reaches a threshold, and the threshold is found
// digit by digit (radix selection) on the logits' bits mapped to integers of the same order — by
// count for top-k, by probability mass for top-p — so that ties fall out right by themselves.
// Temperature is positive and does not change the order, so thresholds apply before it.
// Probabilities are exp((l − max l) ÷ temperature) in double, relative to the most probable id;
// every sum runs in order of id and digit. With a top-k of few all this looks at some of the ids
// alone: adjacent ids make groups, and k groups whose maxima reach a bound hold k ids that do.
#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstring>
#include <functional>
#include <limits>
#include <span>
#include <utility>
#include <vector>

#include "kernels/core/philox.h"
#include "kernels/cpu/launchers.h"

namespace engine::cpu {
namespace {

struct Candidates {
  std::span<const float> logits;  // (V) penalised, finite
  SamplingParams params;
  float highest = 0.0f;   // the largest logit
  std::int32_t best = 0;  // the lowest id that has it
  // Those that a filter may keep, in their order; empty: all.
  std::vector<std::int32_t> ids;

  // Calls f(id, logit) for every candidate, in the order of ids.
  template <typename F>
  void each(const F& f) const {
    if (ids.empty()) {
      for (std::size_t id = 0; id < logits.size(); ++id)
        f(static_cast<std::int32_t>(id), logits[id]);
    } else {
      for (const std::int32_t id : ids) f(id, logits[static_cast<std::size_t>(id)]);
    }
  }
  // Probability relative to the most probable id.
  double weight(float l) const {
    return std::exp((static_cast<double>(l) - static_cast<double>(highest)) /
                    static_cast<double>(params.temperature));
  }
};

bool all_finite(std::span<const float> values) {
  constexpr std::uint32_t kMagnitude = 0x7fffffffu, kInfinity = 0x7f800000u;
  std::uint32_t broken = 0;  // no early way out, so that the loop runs on vectors
  for (const float value : values) {
    broken |= (std::bit_cast<std::uint32_t>(value) & kMagnitude) >= kInfinity ? 1u : 0u;
  }
  return broken == 0;
}

// Never infinite, so that differences are defined.
std::vector<float> penalised(std::span<const float> logits, const std::uint8_t* seen, float by) {
  constexpr float kMost = std::numeric_limits<float>::max();
  std::vector<float> result(logits.begin(), logits.end());
  for (std::size_t id = 0; id < result.size(); ++id) {
    float& l = result[id];
    if (seen[id] != 0) l = std::clamp(l > 0.0f ? l / by : l * by, -kMost, kMost);
  }
  return result;
}

// The maxima of groups of adjacent ids.
std::vector<float> group_maxima(std::span<const float> logits) {
  constexpr std::size_t kGroup = 16;
  // From a float's bits to an integer of the same order, and back. Maxima of signed integers the
  // compiler takes by vectors.
  const auto ordered = [](std::int32_t bits) { return bits ^ (bits >> 31 & 0x7fffffff); };
  std::vector<float> maxima;
  maxima.reserve(logits.size() / kGroup + 1);
  for (std::size_t first = 0; first < logits.size(); first += kGroup) {
    const auto group = logits.subspan(first, std::min(kGroup, logits.size() - first));
    std::int32_t most = std::numeric_limits<std::int32_t>::min();
    for (const float value : group) {
      most = std::max(most, ordered(std::bit_cast<std::int32_t>(value)));
    }
    maxima.push_back(std::bit_cast<float>(ordered(most)));
  }
  return maxima;
}

// The ids that reach the k-th greatest of the groups' maxima, so at least k; none: that says
// nothing.
std::vector<std::int32_t> likely_ids(std::span<const float> logits, std::vector<float> maxima,
                                     std::int32_t k) {
  std::vector<std::int32_t> ids;
  if (k <= 0 || static_cast<std::size_t>(k) > maxima.size()) return ids;
  const auto bound = maxima.begin() + (k - 1);
  std::nth_element(maxima.begin(), bound, maxima.end(), std::greater<>());
  for (std::size_t id = 0; id < logits.size(); ++id) {
    if (logits[id] >= *bound) ids.push_back(static_cast<std::int32_t>(id));
  }
  return ids;
}

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
    candidates.each([&](std::int32_t, float l) {
      const std::uint32_t key = order_key(l);
      if (key < floor || (key & decided) != prefix) return;
      const std::uint32_t digit = (key >> shift) & 0xffu;
      bins[digit] += measure(l);
      present[digit] = true;
    });
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
  if (params.top_k > 0 && static_cast<std::size_t>(params.top_k) < candidates.logits.size()) {
    floor = threshold(candidates, floor, params.top_k, [](float) { return 1.0; });
  }
  if (params.top_p < 1.0f) {
    const auto mass = [&](float l) { return candidates.weight(l); };
    double total = 0.0;
    candidates.each([&](std::int32_t, float l) {
      if (order_key(l) >= floor) total += mass(l);
    });
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
  candidates.each([&](std::int32_t id, float l) {
    if (order_key(l) < floor) return;
    const double weight = candidates.weight(l);
    if (weight < least) return;
    const auto wanted = static_cast<std::uint32_t>(id / 4);
    if (wanted != block) {
      block = wanted;
      bits = sampling_bits(candidates.params.seed, position, block);
    }
    const double e = -std::log(static_cast<double>(uniform_open(bits.word[id % 4])));
    const double score = weight / e;
    if (score > best_score) {
      best_score = score;
      best = id;
    }
  });
  return best;
}

}  // namespace

void sample(const Context& context, const SampleCall& call) {
  context.poll();
  const std::span logits(call.logits.as<const float>(),
                         static_cast<std::size_t>(call.logits.size(0)));
  auto* seen = call.seen.as<std::uint8_t>();
  auto* position = call.position.as<std::int32_t>();
  *position += call.advance;

  SampledToken sampled;
  sampled.not_finite = all_finite(logits) ? 0 : 1;
  if (sampled.not_finite == 0) {
    Candidates candidates{.logits = logits, .params = {}, .ids = {}};
    std::memcpy(&candidates.params, call.params.data, sizeof(SamplingParams));
    std::vector<float> own;
    if (const float penalty = candidates.params.repetition_penalty; penalty != 1.0f) {
      own = penalised(logits, seen, penalty);
      candidates.logits = own;
    }
    std::vector<float> maxima = group_maxima(candidates.logits);
    candidates.highest = *std::max_element(maxima.begin(), maxima.end());
    candidates.best = static_cast<std::int32_t>(
        std::find(candidates.logits.begin(), candidates.logits.end(), candidates.highest) -
        candidates.logits.begin());
    sampled.id = candidates.best;
    if (candidates.params.temperature > 0.0f) {
      candidates.ids = likely_ids(candidates.logits, std::move(maxima), candidates.params.top_k);
      sampled.id = draw(candidates, static_cast<std::uint32_t>(*position));
    }
  }
  call.sampled.as<SampledToken>()[*position % (call.sampled.size(0) / 2)] = sampled;
  *call.next_ids.as<std::int32_t>() = sampled.id;
  seen[sampled.id] = 1;
}

}  // namespace engine::cpu
