#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <numeric>
#include <utility>

#include "kernels/core/philox.h"
#include "kernels/reference/reference.h"

namespace engine::reference {
namespace {

// Sets every weight below `least` to 0.
void filter(Values& weight, double least) {
  for (double& w : weight) w = w >= least ? w : 0.0;
}

// The smallest weight of the fewest greatest ones whose share of the total reaches `share`.
double nucleus_threshold(const Values& weight, double share) {
  Values sorted = weight;
  std::sort(sorted.begin(), sorted.end(), std::greater<>());
  const double goal = share * std::accumulate(sorted.begin(), sorted.end(), 0.0);
  double mass = 0.0;
  for (const double w : sorted) {
    mass += w;
    if (mass >= goal) return w;
  }
  return 0.0;
}

}  // namespace

Values sample_distribution(View logits, std::span<const std::uint8_t> seen,
                           const SamplingParams& params, double slack) {
  const double penalty = params.repetition_penalty, temperature = params.temperature;
  Values score(logits.begin(), logits.end());
  for (std::size_t i = 0; i < score.size(); ++i) {
    if (seen[i] != 0) score[i] = score[i] > 0.0 ? score[i] / penalty : score[i] * penalty;
  }
  const auto best = std::max_element(score.begin(), score.end());
  const double greatest = *best;
  if (temperature == 0.0) {
    Values one_hot(score.size(), 0.0);
    one_hot[static_cast<std::size_t>(best - score.begin())] = 1.0;
    return one_hot;
  }
  for (double& s : score) s = std::exp((s - greatest) / temperature);
  // What ranks at a threshold is in whatever the slack; near ties below it may come in.
  const double loose = 1.0 - std::max(slack, 0.0);
  if (params.top_k > 0 && static_cast<std::size_t>(params.top_k) < score.size()) {
    Values sorted = score;
    std::nth_element(sorted.begin(), sorted.begin() + params.top_k - 1, sorted.end(),
                     std::greater<>());
    filter(score, sorted[static_cast<std::size_t>(params.top_k - 1)] * loose);
  }
  if (params.top_p < 1.0f) {
    const double share = std::min(1.0, params.top_p * (1.0 + slack));
    filter(score, nucleus_threshold(score, share) * loose);
  }
  filter(score, std::min(1.0, params.min_p * (1.0 - slack)));  // the greatest weight is 1
  const double total = std::accumulate(score.begin(), score.end(), 0.0);
  for (double& s : score) s /= total;
  return score;
}

ExactToken sample_token(View probabilities, std::uint64_t seed, std::uint32_t position) {
  ExactToken token;
  double best = -std::numeric_limits<double>::infinity(), second = best;
  for (std::size_t id = 0; id < probabilities.size(); ++id) {
    if (probabilities[id] == 0.0) continue;
    const Philox4 bits = sampling_bits(seed, position, static_cast<std::uint32_t>(id / 4));
    const double exponential = -std::log(static_cast<double>(uniform_open(bits.word[id % 4])));
    const double score = std::log(probabilities[id] / exponential);
    if (score > best) {
      second = std::exchange(best, score);
      token.id = static_cast<std::int32_t>(id);
    } else {
      second = std::max(second, score);
    }
  }
  token.lead = best - second;
  return token;
}

}  // namespace engine::reference
