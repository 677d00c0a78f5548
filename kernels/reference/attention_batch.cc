#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/core/check.h"
#include "kernels/reference/reference.h"

namespace engine::reference {
namespace {

// y(s, h, p, j) and dy ÷ ds, or −∞ and 0 where the query does not see the key.
struct Scored {
  double value, derivative;
};

Scored score(const AttentionBatchProblem& problem, double s, std::int64_t h, std::int64_t p,
             std::int64_t j) {
  const auto extent = problem.extent;
  constexpr Scored kHidden{-std::numeric_limits<double>::infinity(), 0.0};
  const double distance = static_cast<double>(p - j), head = static_cast<double>(h);
  if (problem.causal && j > p) return kHidden;
  if (problem.window > 0 && p - j >= problem.window) return kHidden;
  switch (problem.kind) {
    case ScoreKind::kNoop:
      return {s, 1.0};
    case ScoreKind::kCausal:
      return j > p ? kHidden : Scored{s, 1.0};
    case ScoreKind::kRel:
      return {s + distance, 1.0};
    case ScoreKind::kHeadBias:
      return {s + 2.0 * head, 1.0};
    case ScoreKind::kAlibi:
      return {s - std::exp2(-8.0 * (head + 1.0) / static_cast<double>(problem.heads)) * distance,
              1.0};
    case ScoreKind::kSlidingWindow:
      return j > p || p - j >= extent ? kHidden : Scored{s, 1.0};
    case ScoreKind::kDocument:
      return problem.document.at(static_cast<std::size_t>(p)) !=
                     problem.document.at(static_cast<std::size_t>(j))
                 ? kHidden
                 : Scored{s, 1.0};
    case ScoreKind::kPrefixLm:
      return j > p && j >= extent ? kHidden : Scored{s, 1.0};
    case ScoreKind::kSoftCap: {
      const double t = std::tanh(s / problem.cap);
      return {problem.cap * t, 1.0 - t * t};
    }
  }
  return kHidden;
}

// One query row of one head: its keys' scores, and the log of the sum of their exponentials.
struct ScoredRow {
  std::vector<Scored> scores;
  double lse;
};

ScoredRow score_row(const AttentionBatchProblem& problem, View q, View k, std::int64_t i,
                    std::int64_t h) {
  const auto width = static_cast<std::size_t>(problem.head_size);
  const double* query = &q[static_cast<std::size_t>(i * problem.heads + h) * width];
  ScoredRow row{{}, -std::numeric_limits<double>::infinity()};
  double greatest = row.lse, sum = 0.0;
  for (std::int64_t j = 0; j < problem.keys; ++j) {
    const double* key = &k[problem.key_row(j, h) * width];
    double s = 0.0;
    for (std::size_t d = 0; d < width; ++d) s += problem.scale * query[d] * key[d];
    row.scores.push_back(score(problem, s, h, problem.position + i, j));
    greatest = std::max(greatest, row.scores.back().value);
  }
  for (const Scored& s : row.scores) {
    if (s.value > -std::numeric_limits<double>::infinity()) sum += std::exp(s.value - greatest);
  }
  if (sum > 0.0) row.lse = greatest + std::log(sum);
  return row;
}

double weight_of(const ScoredRow& row, std::int64_t j) {
  const double value = row.scores[static_cast<std::size_t>(j)].value;
  return std::isinf(value) && value < 0 ? 0.0 : std::exp(value - row.lse);
}

}  // namespace

Values attention_weights(const AttentionBatchProblem& problem, View q, View k, std::int64_t i,
                         std::int64_t h) {
  const ScoredRow row = score_row(problem, q, k, i, h);
  Values weights;
  for (std::int64_t j = 0; j < problem.keys; ++j) weights.push_back(weight_of(row, j));
  return weights;
}

AttentionResult attention_batch(const AttentionBatchProblem& problem, View q, View k, View v) {
  const auto width = static_cast<std::size_t>(problem.head_size);
  AttentionResult result{Values(q.size(), 0.0), Values(q.size() / width)};
  for (std::int64_t h = 0; h < problem.heads; ++h) {
    for (std::int64_t i = 0; i < problem.queries; ++i) {
      const ScoredRow row = score_row(problem, q, k, i, h);
      result.lse[static_cast<std::size_t>(h * problem.queries + i)] = row.lse;
      double* out = &result.out[static_cast<std::size_t>(i * problem.heads + h) * width];
      for (std::int64_t j = 0; j < problem.keys; ++j) {
        const double weight = weight_of(row, j);
        const double* value = &v[problem.key_row(j, h) * width];
        for (std::size_t d = 0; weight > 0.0 && d < width; ++d) out[d] += weight * value[d];
      }
    }
  }
  return result;
}

AttentionGradients attention_backward(const AttentionBatchProblem& problem, View q, View k, View v,
                                      View dout) {
  const auto width = static_cast<std::size_t>(problem.head_size);
  const Values out = attention_batch(problem, q, k, v).out;
  AttentionGradients g{Values(q.size()), Values(k.size()), Values(k.size())};
  for (std::int64_t h = 0; h < problem.heads; ++h) {
    for (std::int64_t i = 0; i < problem.queries; ++i) {
      const ScoredRow row = score_row(problem, q, k, i, h);
      const std::size_t at = static_cast<std::size_t>(i * problem.heads + h) * width;
      double delta = 0.0;
      for (std::size_t d = 0; d < width; ++d) delta += dout[at + d] * out[at + d];
      for (std::int64_t j = 0; j < problem.keys; ++j) {
        const double weight = weight_of(row, j);
        if (weight == 0.0) continue;
        const std::size_t key = problem.key_row(j, h) * width;
        double product = 0.0;
        for (std::size_t d = 0; d < width; ++d) product += dout[at + d] * v[key + d];
        const double ds = weight * (product - delta) * problem.scale *
                          row.scores[static_cast<std::size_t>(j)].derivative;
        for (std::size_t d = 0; d < width; ++d) {
          g.dq[at + d] += ds * k[key + d];
          g.dk[key + d] += ds * q[at + d];
          g.dv[key + d] += weight * dout[at + d];
        }
      }
    }
  }
  return g;
}

}  // namespace engine::reference
