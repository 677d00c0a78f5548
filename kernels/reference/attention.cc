#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/reference/reference.h"

namespace engine::reference {

std::int64_t AttentionProblem::first_key(std::int64_t t) const {
  return window > 0 ? std::max<std::int64_t>(0, position + t - window + 1) : 0;
}

std::int64_t AttentionProblem::end_key(std::int64_t t) const {
  return causal ? position + t + 1 : position + tokens;
}

AttentionResult attention(const AttentionProblem& problem, View q, View k_cache, View v_cache) {
  const std::int64_t heads = problem.heads, group = heads / problem.kv_heads;
  const auto width = static_cast<std::size_t>(problem.head_size);
  AttentionResult result{Values(q.size(), 0.0),
                         Values(static_cast<std::size_t>(heads * problem.tokens),
                                -std::numeric_limits<double>::infinity())};
  for (std::int64_t index = 0; index < problem.tokens * heads; ++index) {
    const std::int64_t t = index / heads, h = index % heads;
    const std::int64_t begin = problem.first_key(t), end = problem.end_key(t);
    if (begin >= end) continue;
    const auto key_row = static_cast<std::size_t>(h / group * problem.capacity + begin) * width;
    const double* query = &q[static_cast<std::size_t>(index) * width];
    double* out = &result.out[static_cast<std::size_t>(index) * width];
    Values score(static_cast<std::size_t>(end - begin), 0.0);
    for (std::size_t j = 0; j < score.size(); ++j) {
      const double* key = &k_cache[key_row + j * width];
      for (std::size_t i = 0; i < width; ++i) score[j] += problem.scale * query[i] * key[i];
    }
    const double greatest = *std::max_element(score.begin(), score.end());
    double sum = 0.0;
    for (double& s : score) sum += s = std::exp(s - greatest);
    for (std::size_t j = 0; j < score.size(); ++j) {
      const double* value = &v_cache[key_row + j * width];
      for (std::size_t i = 0; i < width; ++i) out[i] += score[j] / sum * value[i];
    }
    result.lse[static_cast<std::size_t>(h * problem.tokens + t)] = greatest + std::log(sum);
  }
  return result;
}

}  // namespace engine::reference
