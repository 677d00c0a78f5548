// x as digits of a fixed-point number, and int8 weights times them, on machines that multiply
// bytes.
#include <doctest/doctest.h>

#include <cmath>
#include <limits>
#include <vector>

#include "kernels/cpu/isa.h"
#include "kernels/cpu/kernels.h"

namespace engine::test {
namespace {

using cpu::kDigits;
using cpu::kDigitZero;
using cpu::Kernels;

// The table in use, or null (with a message) where it has no digits.
const Kernels* digit_kernels() {
  const Kernels* kernels = &cpu::choose_kernels();
  if (kernels->to_digits != nullptr) return kernels;
  MESSAGE("skipped: this machine, or ENGINE_ISA, has no products of bytes");
  return nullptr;
}

struct Row {
  std::vector<std::uint8_t> digits;
  std::int64_t plane;
  double unit;

  Row(const Kernels& kernels, const std::vector<float>& x)
      : plane((static_cast<std::int64_t>(x.size()) + 63) / 64 * 64) {
    digits.assign(static_cast<std::size_t>(kDigits * plane), 0xee);
    unit = kernels.to_digits(x.data(), static_cast<std::int64_t>(x.size()), digits.data(), plane);
  }
  // x[k] ÷ unit.
  std::int64_t number(std::size_t k) const {
    std::int64_t value = -kDigitZero, weight = 1;
    for (std::int64_t d = 0; d < kDigits; ++d, weight *= 256) {
      value += weight * digits[static_cast<std::size_t>(d * plane) + k];
    }
    return value;
  }
};

class Random {
 public:
  // In [−1, 1).
  float next() {
    state_ = state_ * 1664525u + 1013904223u;
    return static_cast<float>(static_cast<std::int32_t>(state_)) * 0x1p-31f;
  }

 private:
  std::uint32_t state_ = 7;
};

TEST_CASE("cpu digits are x to 2^-22 of the greatest, at every length and magnitude") {
  const Kernels* kernels = digit_kernels();
  if (kernels == nullptr) return;
  Random random;
  for (std::size_t count = 1; count <= 150; ++count) {
    for (const int exponent : {-148, -126, -60, -3, 0, 5, 60, 126}) {
      std::vector<float> x(count);
      double largest = 0.0;
      for (float& value : x) {
        value = std::ldexp(random.next(), exponent);
        largest = std::max(largest, std::fabs(static_cast<double>(value)));
      }
      const Row row(*kernels, x);
      CAPTURE(count);
      CAPTURE(exponent);
      int wrong = 0;
      for (std::size_t k = 0; k < count; ++k) {
        const double error = std::fabs(static_cast<double>(row.number(k)) * row.unit - x[k]);
        wrong += !(error <= largest * 0x1p-22);
      }
      CHECK(wrong == 0);
    }
  }
}

TEST_CASE("cpu digits of a row just below a power of two do not overflow") {
  const Kernels* kernels = digit_kernels();
  if (kernels == nullptr) return;
  const float most = std::nextafter(2.0f, 0.0f);
  const Row row(*kernels, {most, -most, 1.0f, 0.0f});
  CHECK(static_cast<double>(row.number(0)) * row.unit == doctest::Approx(most).epsilon(1e-6));
  CHECK(row.number(1) == -row.number(0));
  CHECK(static_cast<double>(row.number(2)) * row.unit == 1.0);
  CHECK(row.number(3) == 0);
}

TEST_CASE("cpu digits of zeros have the unit 0, of NaN and infinity NaN") {
  const Kernels* kernels = digit_kernels();
  if (kernels == nullptr) return;
  CHECK(Row(*kernels, std::vector<float>(70, 0.0f)).unit == 0.0);
  for (const float odd :
       {std::numeric_limits<float>::infinity(), -std::numeric_limits<float>::infinity(),
        std::numeric_limits<float>::quiet_NaN()}) {
    for (const std::size_t place : {0u, 15u, 16u, 69u}) {
      std::vector<float> x(70, 1.0f);
      x[place] = odd;
      CHECK(std::isnan(Row(*kernels, x).unit));
    }
  }
}

TEST_CASE("cpu products of int8 by digits are exact sums, rounded once") {
  const Kernels* kernels = digit_kernels();
  if (kernels == nullptr) return;
  Random random;
  for (const std::int64_t columns : {1, 2, 63, 64, 65, 130, 4096}) {
    for (const std::int64_t rows : {1, 5, 6, 7, 13}) {
      for (const std::int64_t tokens : {1, 3}) {
        // One byte past the last row is not the matrix's: NaN has no meaning there, so a value that
        // would show.
        std::vector<std::int8_t> w(static_cast<std::size_t>(rows * columns) + 64, 111);
        for (std::int64_t i = 0; i < rows * columns; ++i) {
          const float value = random.next() * 128.0f;
          w[static_cast<std::size_t>(i)] =
              i % 17 == 0 ? std::int8_t{-128} : static_cast<std::int8_t>(value);
        }
        std::vector<std::vector<float>> x(static_cast<std::size_t>(tokens));
        std::vector<Row> made;
        std::vector<std::uint8_t> digits;
        std::vector<double> units;
        for (auto& row : x) {
          row.resize(static_cast<std::size_t>(columns));
          for (float& value : row) value = random.next();
          made.emplace_back(*kernels, row);
          digits.insert(digits.end(), made.back().digits.begin(), made.back().digits.end());
          units.push_back(made.back().unit);
        }
        for (const bool accumulate : {false, true}) {
          std::vector<float> out(static_cast<std::size_t>(tokens * rows), 0.5f);
          kernels->dot_block_digits({.w = w.data(),
                                     .w_stride = columns,
                                     .rows = rows,
                                     .digits = digits.data(),
                                     .plane = made[0].plane,
                                     .units = units.data(),
                                     .tokens = tokens,
                                     .columns = columns,
                                     .out = out.data(),
                                     .out_stride = rows,
                                     .accumulate = accumulate});
          int wrong = 0;
          for (std::int64_t m = 0; m < tokens; ++m) {
            for (std::int64_t n = 0; n < rows; ++n) {
              std::int64_t sum = 0;
              const Row& row = made[static_cast<std::size_t>(m)];
              for (std::int64_t k = 0; k < columns; ++k) {
                sum += row.number(static_cast<std::size_t>(k)) *
                       w[static_cast<std::size_t>(n * columns + k)];
              }
              const auto exact = static_cast<float>(static_cast<double>(sum) * row.unit);
              const float expected = accumulate ? 0.5f + exact : exact;
              wrong += out[static_cast<std::size_t>(m * rows + n)] != expected;
            }
          }
          CAPTURE(columns);
          CAPTURE(rows);
          CAPTURE(tokens);
          CHECK(wrong == 0);
        }
      }
    }
  }
}

}  // namespace
}  // namespace engine::test
