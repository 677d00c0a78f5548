// The experts of a mixture in tests: their matrices, and which of them each token chooses.
#pragma once

#include <cstdint>
#include <numeric>
#include <utility>
#include <vector>

#include "kernels/cases/cases.h"
#include "tests/support/weights.h"

namespace engine::test {

// `top_k` different experts for every token, (T, S): random ones, or the same for all tokens, each
// time in another order.
inline std::vector<std::int32_t> choose_experts(const cases::MoeCase& c, std::uint64_t seed) {
  Random random(seed);
  std::vector<std::int32_t> order(static_cast<std::size_t>(c.experts)), chosen;
  std::iota(order.begin(), order.end(), 0);
  const auto shuffle = [&](std::size_t among) {
    for (std::size_t i = among - 1; i > 0; --i) {
      std::swap(order[i], order[static_cast<std::size_t>(random.below(std::int64_t(i) + 1))]);
    }
  };
  shuffle(order.size());
  for (std::int64_t t = 0; t < c.tokens; ++t) {
    shuffle(c.same_experts ? static_cast<std::size_t>(c.top_k) : order.size());
    chosen.insert(chosen.end(), order.begin(), order.begin() + c.top_k);
  }
  return chosen;
}

// One matrix (rows, columns) for each expert, all different.
inline std::vector<HostMatrix> expert_matrices(DType dtype, std::int64_t experts, std::int64_t rows,
                                               std::int64_t columns, std::uint64_t seed) {
  std::vector<HostMatrix> matrices;
  for (std::int64_t e = 0; e < experts; ++e) {
    matrices.push_back(
        scaled_matrix(dtype, rows, columns, seed * 1000 + static_cast<std::uint64_t>(e)));
  }
  return matrices;
}

inline std::vector<Values> decoded(const std::vector<HostMatrix>& matrices, QuantFormat format) {
  std::vector<Values> values;
  for (const HostMatrix& matrix : matrices) values.push_back(decoded(matrix, format));
  return values;
}

}  // namespace engine::test
