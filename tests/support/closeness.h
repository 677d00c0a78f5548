// Comparing a kernel's result with an oracle's.
//
// Every tolerance is a bound of rounding-error analysis (N. J. Higham, "Accuracy and Stability of
// Numerical Algorithms", chapters 2 and 3), computed per element from the oracle's own values. As
// such bounds hold for the worst case, they are wide where many terms are summed; the normalised
// mean square error, which rounding makes grow like a random walk, is the second, narrow gate.
#pragma once

#include <doctest/doctest.h>

#include <cmath>
#include <cstring>
#include <string>

#include "kernels/core/dtype.h"
#include "tests/support/inputs.h"

namespace engine::test {

// u: the largest relative error of rounding to nearest.
inline double unit_roundoff(DType dtype) {
  return dtype == DType::kF32 ? 0x1p-24 : dtype == DType::kF16 ? 0x1p-11 : 0x1p-8;
}

// The largest absolute error where results are subnormal: half of the least f16; in the types with
// fp32's exponents all below the least normal number, since hardware may flush it to zero.
inline double underflow(DType dtype) { return dtype == DType::kF16 ? 0x1p-25 : 0x1p-126; }

// The unit roundoff of an accumulator over operands of `dtype`. fp32 products are summed by FMA,
// rounding to nearest; tensor cores, which take 16-bit operands, truncate, which doubles it.
inline double accumulator_roundoff(DType dtype) { return dtype == DType::kF32 ? 0x1p-24 : 0x1p-23; }

// γ_n = n u ÷ (1 − n u): the relative error of n roundings in a row, in any order of summation.
inline double gamma(std::int64_t n, double u) {
  const double nu = static_cast<double>(n) * u;
  return nu / (1.0 - nu);
}

// The square of the relative error that a sum of `terms` products of random sign picks up in an
// accumulator. To nearest: a random walk over partial sums that grow like √i, u √(terms ÷ 6) at
// most. Truncating: up to 2 u of the partial sum lost per step of at least 8 terms, always towards
// zero, hence u terms ÷ 4 at most.
inline double accumulation_nmse(std::int64_t terms, DType dtype) {
  const double u = 0x1p-24, n = static_cast<double>(terms);
  return dtype == DType::kF32 ? u * u * (n + 4.0) : u * u * (n + 4.0 + n * n / 16.0);
}

// The same for one rounding to `dtype`: u² ÷ 3 for uniform mantissas at their worst (just above a
// power of two); u² leaves room for few samples.
inline double rounding_nmse(DType dtype) { return unit_roundoff(dtype) * unit_roundoff(dtype); }

// Σ (a − e)² ÷ Σ e² over the elements where both are finite.
inline double nmse(const Values& actual, const Values& expected) {
  double error = 0.0, power = 0.0;
  for (std::size_t i = 0; i < expected.size(); ++i) {
    if (!std::isfinite(expected[i]) || !std::isfinite(actual[i])) continue;
    error += (actual[i] - expected[i]) * (actual[i] - expected[i]);
    power += expected[i] * expected[i];
  }
  return power > 0.0 ? error / power : error > 0.0 ? kInfinity : 0.0;
}

// Elementwise |actual − expected| ≤ tolerance; NaN wants NaN, an infinity the same infinity. Names
// the element that exceeds its tolerance most.
inline void check_close(const std::string& what, const Values& actual, const Values& expected,
                        const Values& tolerance) {
  REQUIRE_MESSAGE(actual.size() == expected.size(), what, ": ", actual.size(), " elements, not ",
                  expected.size());
  REQUIRE_MESSAGE(tolerance.size() == expected.size(), what, ": ", tolerance.size(), " tolerances");
  std::size_t failures = 0, worst = 0;
  double worst_ratio = -1.0;
  for (std::size_t i = 0; i < expected.size(); ++i) {
    const double a = actual[i], e = expected[i];
    double ratio = 0.0;
    if (std::isnan(e) || std::isnan(a)) {
      ratio = std::isnan(e) == std::isnan(a) ? 0.0 : kInfinity;
    } else if (a != e) {
      const double error = std::fabs(a - e);
      ratio = error <= tolerance[i] ? 0.0 : tolerance[i] > 0.0 ? error / tolerance[i] : kInfinity;
    }
    if (ratio > 0.0) ++failures;
    if (ratio > worst_ratio) {
      worst_ratio = ratio;
      worst = i;
    }
  }
  CHECK_MESSAGE(failures == 0, what, ": ", failures, " of ", expected.size(),
                " elements out of tolerance; worst at [", worst, "]: ", actual[worst],
                ", expected ", expected[worst], " ± ", tolerance[worst]);
}

inline void check_equal(const std::string& what, const Values& actual, const Values& expected) {
  check_close(what, actual, expected, Values(expected.size(), 0.0));
}

// `limit` as a formula of the functions above. An absolute floor covers results that underflow.
inline void check_nmse(const std::string& what, const Values& actual, const Values& expected,
                       double limit) {
  const double found = nmse(actual, expected);
  CHECK_MESSAGE(found <= limit, what, ": NMSE ", found, ", at most ", limit);
}

}  // namespace engine::test
