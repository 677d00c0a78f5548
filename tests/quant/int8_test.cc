// The int8 rule against an implementation of its own (kernels/reference/int8.cc): arithmetic on
// doubles, no shared code.
#include "quant/int8.h"

#include <doctest/doctest.h>

#include <cfloat>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "quant/format.h"
#include "quant/half.h"
#include "tests/support/inputs.h"

namespace engine::test {
namespace {

struct Row {
  std::vector<std::int8_t> q;
  std::uint16_t scale = 0;
};

Row quantise(const std::vector<float>& weights) {
  Row row;
  row.q.assign(weights.size() + 1, 77);
  row.scale = int8_quantise_row(weights, {row.q.data(), weights.size()});
  CHECK(row.q.back() == 77);  // wrote the row and no more
  row.q.pop_back();
  return row;
}

std::vector<float> decode(const Row& row) {
  std::vector<std::byte> bytes(row.q.size());
  if (!bytes.empty()) std::memcpy(bytes.data(), row.q.data(), bytes.size());
  std::byte scale[2];
  std::memcpy(scale, &row.scale, 2);
  std::vector<float> out(row.q.size());
  format_info(QuantFormat::kInt8).decode_row(bytes, scale, out);
  return out;
}

void check_row(const std::vector<float>& weights) {
  const Values values(weights.begin(), weights.end());
  const reference::Int8Matrix expected =
      reference::int8_quantise(values, static_cast<std::int64_t>(values.size()));
  const Row row = quantise(weights);
  CHECK(static_cast<double>(bf16_to_float(row.scale)) == expected.scale[0]);
  CHECK(row.q == expected.q);
  const std::vector<float> back = decode(row);
  CHECK(Values(back.begin(), back.end()) == expected.decoded);
}

TEST_CASE("int8 rows of every size and magnitude follow the rule") {
  Random random(1);
  for (const std::size_t width : {1, 2, 3, 7, 16, 43, 64, 1000, 4096}) {
    for (int exponent = -40; exponent <= 100; exponent += 7) {
      std::vector<float> weights(width);
      for (float& w : weights) {
        w = std::ldexp(static_cast<float>(random.uniform(-1.0, 1.0)), exponent);
      }
      check_row(weights);
    }
  }
}

TEST_CASE("int8 rounds ties to even, by the scale as stored") {
  // max 127.5 makes the scale exactly 1.
  std::vector<float> weights = {127.5f};
  for (int i = -127; i <= 127; ++i) {
    for (const float part : {0.0f, 0.25f, 0.5f, 0.75f}) {
      weights.push_back(static_cast<float>(i) + (i < 0 ? -part : part));
    }
  }
  weights.push_back(std::nextafter(2.5f, 3.0f));
  weights.push_back(std::nextafter(2.5f, 2.0f));
  check_row(weights);
  const Row row = quantise({127.5f, 0.5f, 1.5f, 2.5f, -0.5f, -1.5f, -2.5f, 126.5f});
  CHECK(row.scale == float_to_bf16(1.0f));
  CHECK(row.q == std::vector<std::int8_t>{127, 0, 2, 2, 0, -2, -2, 126});
  // A scale that bf16 can't hold: 100 ÷ 127.5 is stored as 0.78515625 or thereabouts, and 50 ÷ that
  // is 63.68, where the exact scale gives 63.75.
  const Row rounded = quantise({100.0f, 50.0f});
  const float scale = bf16_to_float(rounded.scale);
  CHECK(scale != 100.0f / 127.5f);
  CHECK(rounded.q[1] == static_cast<std::int8_t>(std::lround(50.0f / scale)));
}

TEST_CASE("int8 reaches -128 and never 128") {
  CHECK(quantise({-127.5f}).q[0] == -128);
  CHECK(quantise({127.5f}).q[0] == 127);
  int lowest = 0;
  for (int i = 0; i < 20000; ++i) {
    const float largest = std::ldexp(1.0f + static_cast<float>(i) / 20000.0f, -3);
    const Row row = quantise({-largest, largest});
    CHECK(row.q[1] == 127);
    lowest = std::min<int>(lowest, row.q[0]);
    check_row({-largest, largest, largest / 3.0f});
  }
  CHECK(lowest == -128);
}

TEST_CASE("int8 of zeros, of tiny weights and of one huge weight") {
  CHECK(quantise({0.0f, -0.0f, 0.0f}).q == std::vector<std::int8_t>{0, 0, 0});
  CHECK(bf16_to_float(quantise({0.0f}).scale) == 0x1p-23f);
  CHECK(decode(quantise({0.0f, -0.0f})) == std::vector<float>{0.0f, 0.0f});
  // Below 127.5 · 2^-23 the scale stays at its floor.
  check_row({0x1p-23f, -0x1p-24f, 0x1.8p-23f, 0x1p-30f, 126.0f * 0x1p-23f});
  CHECK(bf16_to_float(quantise({0x1p-20f}).scale) == 0x1p-23f);
  CHECK(quantise({0x1p-20f}).q[0] == 8);
  check_row({FLT_MIN, -FLT_TRUE_MIN, 0x1p-60f});
  check_row({1e30f, 1.0f, -3.0f, 1e27f});
  CHECK(quantise({1e30f, 1.0f, -3.0f}).q == std::vector<std::int8_t>{127, 0, 0});
  CHECK(quantise({}).q.empty());
}

TEST_CASE("int8 decoding multiplies any stored byte by any scale") {
  Row row;
  for (int q = -128; q <= 127; ++q) row.q.push_back(static_cast<std::int8_t>(q));
  for (const float scale : {0x1p-23f, 0.0078125f, 1.0f, 3.140625f, 1e30f}) {
    row.scale = float_to_bf16(scale);
    const std::vector<float> out = decode(row);
    for (int q = -128; q <= 127; ++q) {
      CHECK(out[static_cast<std::size_t>(q + 128)] ==
            static_cast<float>(q) * bf16_to_float(row.scale));
    }
  }
}

TEST_CASE("the row of the format table for int8") {
  const FormatInfo& info = format_info(QuantFormat::kInt8);
  CHECK(info.format == QuantFormat::kInt8);
  CHECK(info.name == "int8");
  CHECK(info.row_bytes(4096) == 4096);
  CHECK(info.scale_bytes == 2);
}

TEST_CASE("int8 can't hold NaN or infinity, wherever they stand") {
  constexpr float kBad[] = {std::numeric_limits<float>::quiet_NaN(),
                            std::numeric_limits<float>::infinity(),
                            -std::numeric_limits<float>::infinity()};
  std::vector<float> weights(37, 1.0f);
  CHECK(int8_can_quantise(weights));
  CHECK(int8_can_quantise({}));
  weights[5] = FLT_MAX;
  weights[6] = -FLT_TRUE_MIN;
  CHECK(int8_can_quantise(weights));
  for (const float bad : kBad) {
    for (std::size_t i = 0; i < weights.size(); ++i) {
      std::vector<float> broken = weights;
      broken[i] = bad;
      CHECK_FALSE(int8_can_quantise(broken));
    }
  }
}

TEST_CASE("the error report of int8 adds up over rows") {
  Random random(3);
  Int8Error report;
  double squares = 0.0, power = 0.0, largest = 0.0, worst = 0.0;
  for (int row = 0; row < 20; ++row) {
    std::vector<float> weights(101);
    for (float& w : weights) {
      w = static_cast<float>(random.uniform(-1.0, 1.0) * (row == 7 ? 1e-7 : 1.0 + row));
    }
    const std::vector<float> back = decode(quantise(weights));
    double row_squares = 0.0, row_power = 0.0;
    for (std::size_t i = 0; i < weights.size(); ++i) {
      const double error = double(back[i]) - double(weights[i]);
      row_squares += error * error;
      row_power += double(weights[i]) * double(weights[i]);
      largest = std::max(largest, std::fabs(error));
    }
    squares += row_squares;
    power += row_power;
    worst = std::max(worst, row_squares / row_power);
    report.add_row(weights, back);
  }
  CHECK(report.squared_error == doctest::Approx(squares).epsilon(1e-12));
  CHECK(report.squared_weights == doctest::Approx(power).epsilon(1e-12));
  CHECK(report.nmse() == doctest::Approx(squares / power).epsilon(1e-12));
  CHECK(report.largest == largest);
  CHECK(report.worst_row_nmse == doctest::Approx(worst).epsilon(1e-12));
  CHECK(worst > 0.05);  // row 7 is below the floor of the scale
  // Rounding to a step of max ÷ 127.5: a step² ÷ 12 for weights spread evenly.
  CHECK(report.nmse() == doctest::Approx(3.0 / (127.5 * 127.5) / 12.0).epsilon(0.1));
}

TEST_CASE("the error report of zeros, and of nothing, is zero") {
  Int8Error report;
  CHECK(report.nmse() == 0.0);
  const std::vector<float> zeros(5, 0.0f);
  report.add_row(zeros, zeros);
  CHECK(report.nmse() == 0.0);
  CHECK(report.worst_row_nmse == 0.0);
  CHECK(report.largest == 0.0);
}

}  // namespace
}  // namespace engine::test
