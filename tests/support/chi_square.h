// Pearson's test of counts against an exact distribution.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "tests/support/inputs.h"

namespace engine::test {

// Q(a, x) = Γ(a, x) ÷ Γ(a), the upper tail: the series for P where x < a + 1, else the continued
// fraction by Lentz's method (Abramowitz and Stegun 6.5.29 and 6.5.31).
inline double gamma_tail(double a, double x) {
  if (x <= 0.0) return 1.0;
  const double front = std::exp(a * std::log(x) - x - std::lgamma(a));
  if (x < a + 1.0) {
    double term = 1.0 / a, sum = term;
    for (double n = a + 1.0; term > sum * 1e-16; n += 1.0) sum += term *= x / n;
    return 1.0 - front * sum;
  }
  double b = x + 1.0 - a, c = 1e300, d = 1.0 / b, fraction = d;
  for (double i = 1.0; i < 10000.0; i += 1.0) {
    const double numerator = -i * (i - a);
    b += 2.0;
    d = 1.0 / (numerator * d + b);
    c = b + numerator / c;
    fraction *= c * d;
    if (std::fabs(c * d - 1.0) < 1e-15) break;
  }
  return front * fraction;
}

struct ChiSquare {
  double statistic = 0.0;
  int cells = 0;             // after pooling
  std::int64_t outside = 0;  // draws of ids with probability 0
  double p_value = 1.0;
};

// Cells that expect fewer than 5 draws are pooled into one (Cochran's rule).
inline ChiSquare chi_square(const std::vector<std::int64_t>& counts, const Values& probability) {
  ChiSquare result;
  std::int64_t draws = 0;
  for (const std::int64_t count : counts) draws += count;
  double pooled_expected = 0.0, pooled_count = 0.0;
  const auto add = [&](double count, double expected) {
    result.statistic += (count - expected) * (count - expected) / expected;
    ++result.cells;
  };
  for (std::size_t id = 0; id < counts.size(); ++id) {
    const double expected = probability[id] * static_cast<double>(draws);
    const auto count = static_cast<double>(counts[id]);
    if (probability[id] == 0.0) {
      result.outside += counts[id];
    } else if (expected < 5.0) {
      pooled_expected += expected;
      pooled_count += count;
    } else {
      add(count, expected);
    }
  }
  if (pooled_expected > 0.0) add(pooled_count, pooled_expected);
  result.p_value =
      result.cells < 2 ? 1.0 : gamma_tail((result.cells - 1) / 2.0, result.statistic / 2.0);
  return result;
}

}  // namespace engine::test
