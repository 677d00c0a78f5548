// The vector kernels of every instruction set that this machine runs, row by row against scalar
// definitions: conversions against quant/half.h, the rest against double precision.
#include <doctest/doctest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdlib>
#include <limits>
#include <string>
#include <type_traits>
#include <vector>

#include "kernels/cpu/isa.h"
#include "kernels/cpu/kernels.h"
#include "quant/half.h"
#include "quant/int8.h"
#include "tests/support/outcome.h"

namespace engine::test {
namespace {

using cpu::DotBlock;
using cpu::Kernels;
using cpu::type_index;

// The tables that can be called here.
std::vector<const Kernels*> tables() {
  std::vector<const Kernels*> list = {&cpu::portable_kernels()};
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
      __builtin_cpu_supports("f16c")) {
    list.push_back(&cpu::avx2_kernels());
  }
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq")) {
    list.push_back(&cpu::avx512_kernels());
    if (__builtin_cpu_supports("avx512bf16") && __builtin_cpu_supports("avx512vnni"))
      list.push_back(&cpu::avx512_bf16_kernels());
  }
#endif
  return list;
}

bool same_half(std::uint16_t found, std::uint16_t expected, bool nan) {
  return nan ? (found & 0x7fffu) > 0x7c00u : found == expected;
}

// Every exponent with mantissas that sit on, just below and just above the halfway points of both
// 16-bit types, both signs, the subnormals of f16, infinities and NaN.
std::vector<float> rounding_cases() {
  std::vector<float> values;
  for (std::uint32_t exponent = 0; exponent < 256; ++exponent) {
    for (const std::uint32_t half : {1u << 12, 1u << 15, 3u << 12, 3u << 15, 0u, 0x7ff000u}) {
      for (const std::uint32_t nudge : {0u, 1u, 0xffffffffu}) {
        const std::uint32_t bits = (exponent << 23) | ((half + nudge) & 0x7fffffu);
        values.push_back(std::bit_cast<float>(bits));
        values.push_back(std::bit_cast<float>(bits | 0x80000000u));
      }
    }
  }
  for (int i = 0; i <= 4096; ++i) values.push_back(static_cast<float>(i) * 0x1p-26f);
  return values;
}

TEST_CASE("cpu kernels widen every 16-bit pattern exactly") {
  std::vector<std::uint16_t> patterns(65536);
  for (std::size_t i = 0; i < patterns.size(); ++i) patterns[i] = static_cast<std::uint16_t>(i);
  std::vector<float> widened(patterns.size());
  for (const Kernels* kernels : tables()) {
    CAPTURE(kernels->label);
    for (const DType dtype : {DType::kF16, DType::kBF16}) {
      kernels->to_float[type_index(dtype)](patterns.data(), widened.data(), 65536);
      int wrong = 0;
      for (std::size_t i = 0; i < patterns.size(); ++i) {
        const float expected =
            dtype == DType::kF16 ? f16_to_float(patterns[i]) : bf16_to_float(patterns[i]);
        const bool equal = std::isnan(expected) ? std::isnan(widened[i])
                                                : std::bit_cast<std::uint32_t>(widened[i]) ==
                                                      std::bit_cast<std::uint32_t>(expected);
        if (!equal) ++wrong;
      }
      CHECK(wrong == 0);
    }
  }
}

TEST_CASE("cpu kernels round to 16 bits as the scalar definitions do, at every length") {
  const std::vector<float> values = rounding_cases();
  for (const Kernels* kernels : tables()) {
    CAPTURE(kernels->label);
    std::vector<std::uint16_t> out(values.size() + 1);
    int wrong = 0;
    const auto check = [&](std::size_t from, std::size_t count) {
      for (std::size_t i = 0; i < count; ++i) {
        const float value = values[from + i];
        if (!same_half(out[i], float_to_f16(value), std::isnan(value))) ++wrong;
      }
    };
    const auto size = static_cast<std::int64_t>(values.size());
    kernels->from_float[type_index(DType::kF16)](values.data(), out.data(), size);
    check(0, values.size());
    kernels->from_float[type_index(DType::kBF16)](values.data(), out.data(), size);
    for (std::size_t i = 0; i < values.size(); ++i) wrong += out[i] != float_to_bf16(values[i]);
    for (std::size_t count = 0; count < 70; ++count) {  // tails: nothing past the end is written
      out[count] = 0xabcd;
      kernels->from_float[type_index(DType::kF16)](values.data() + 900, out.data(),
                                                   static_cast<std::int64_t>(count));
      check(900, count);
      wrong += out[count] != 0xabcd;
    }
    CHECK(wrong == 0);
  }
}

// silu(z) = z ÷ (1 + e^−z): the exponential is good to 2 ulp and contributes less than its share of
// the sum, the sum, the quotient and the product by 1 half an ulp each: 3.5 in all, and half an ulp
// of a double oracle's rounding. Where e^−z overflows fp32 (z < −88.7) the result may be zero.
TEST_CASE("cpu kernels compute silu to 4 ulp over its whole range") {
  std::vector<float> z;
  for (float value = -130.0f; value < 130.0f; value += 0.00371f) z.push_back(value);
  for (float value = 1e-30f; value < 1.0f; value *= 3.7f) z.insert(z.end(), {value, -value});
  const std::vector<float> ones(z.size(), 1.0f);
  std::vector<float> out(z.size());
  for (const Kernels* kernels : tables()) {
    CAPTURE(kernels->label);
    kernels->silu_mul[0](z.data(), ones.data(), out.data(), static_cast<std::int64_t>(z.size()));
    double worst = 0.0;
    for (std::size_t i = 0; i < z.size(); ++i) {
      const double x = z[i], expected = x / (1.0 + std::exp(-x));
      if (x < -88.0) {
        CHECK(std::fabs(static_cast<double>(out[i])) <= 1e-36);
        continue;
      }
      const double ulp = std::max(std::ldexp(1.0, std::ilogb(expected) - 23), 0x1p-149);
      worst = std::max(worst, std::fabs(static_cast<double>(out[i]) - expected) / ulp);
    }
    CHECK(worst <= 4.0);
  }
  const float special[] = {std::numeric_limits<float>::infinity(),
                           std::numeric_limits<float>::quiet_NaN(), 0.0f};
  for (const Kernels* kernels : tables()) {
    float found[3];
    kernels->silu_mul[0](special, ones.data(), found, 3);
    CHECK(found[0] == std::numeric_limits<float>::infinity());
    CHECK(std::isnan(found[1]));
    CHECK(found[2] == 0.0f);
  }
}

// Small integers: every product and sum is exact in fp32 and in bf16 pairs, so any order of adding
// gives the same bits and a lane lost or read twice shows.
class IntegerProduct {
 public:
  IntegerProduct(std::int64_t rows, std::int64_t tokens, std::int64_t columns)
      : rows_(rows), tokens_(tokens), columns_(columns), stride_(columns + 3) {
    for (std::int64_t i = 0; i < rows * stride_; ++i) w_.push_back(value(i, 7));
    for (std::int64_t i = 0; i < tokens * stride_; ++i) x_.push_back(value(i, 11));
  }

  // `dot` on w stored as W and x as X; what lies between rows is NaN (or 127) and must not be read.
  template <typename W, typename X>
  bool agrees(void (*dot)(const DotBlock&)) const {
    const std::vector<W> w = stored<W>(w_, rows_);
    const std::vector<X> x = stored<X>(x_, tokens_);
    std::vector<float> out(static_cast<std::size_t>(tokens_ * (rows_ + 2)), 1000.0f);
    dot({.w = w.data(),
         .w_stride = stride_,
         .rows = rows_,
         .x = x.data(),
         .x_stride = stride_,
         .tokens = tokens_,
         .columns = columns_,
         .out = out.data(),
         .out_stride = rows_ + 2,
         .accumulate = true});
    for (std::int64_t m = 0; m < tokens_; ++m) {
      for (std::int64_t n = 0; n < rows_ + 2; ++n) {
        float expected = 1000.0f;
        for (std::int64_t k = 0; k < columns_ && n < rows_; ++k) {
          expected += w_[index(n, k)] * x_[index(m, k)];
        }
        if (out[static_cast<std::size_t>(m * (rows_ + 2) + n)] != expected) return false;
      }
    }
    return true;
  }
  // How many of the kernels for f32 by each format of weight don't agree.
  int disagreeing(void (*const (&dots)[cpu::kWeightFormats])(const DotBlock&)) const {
    return !agrees<float, float>(dots[0]) + !agrees<f16_t, float>(dots[1]) +
           !agrees<bf16_t, float>(dots[2]) + !agrees<std::int8_t, float>(dots[3]);
  }

 private:
  static float value(std::int64_t i, std::int64_t step) {
    return static_cast<float>(i * step % 17 - 8);
  }
  std::size_t index(std::int64_t row, std::int64_t column) const {
    return static_cast<std::size_t>(row * stride_ + column);
  }
  template <typename T>
  std::vector<T> stored(const std::vector<float>& values, std::int64_t rows) const {
    const auto convert = [](float value) {
      if constexpr (std::is_same_v<T, std::int8_t>) {
        return static_cast<T>(std::isnan(value) ? 127.0f : value);
      } else {
        return from_float<T>(value);
      }
    };
    std::vector<T> result(values.size(), convert(std::numeric_limits<float>::quiet_NaN()));
    for (std::int64_t row = 0; row < rows; ++row) {
      for (std::int64_t k = 0; k < columns_; ++k) {
        result[index(row, k)] = convert(values[index(row, k)]);
      }
    }
    return result;
  }

  std::int64_t rows_, tokens_, columns_, stride_;
  std::vector<float> w_, x_;
};

TEST_CASE("cpu kernels multiply blocks of every size exactly") {
  for (const Kernels* kernels : tables()) {
    CAPTURE(kernels->label);
    int wrong = 0;
    const auto check = [&](std::int64_t rows, std::int64_t tokens, std::int64_t columns) {
      const IntegerProduct product(rows, tokens, columns);
      wrong += product.disagreeing(kernels->dot_block);
      if (kernels->dot_block_bf16 != nullptr) {
        wrong += !product.agrees<bf16_t, bf16_t>(kernels->dot_block_bf16);
      }
    };
    for (std::int64_t columns = 0; columns <= 70; ++columns) check(7, 5, columns);
    for (std::int64_t rows = 1; rows <= 13; ++rows) {
      for (std::int64_t tokens = 1; tokens <= 14; ++tokens) check(rows, tokens, 43);
    }
    for (const std::int64_t columns : {31, 64, 513}) {  // one or two tokens: taller tiles
      for (std::int64_t tokens = 1; tokens <= 3; ++tokens) check(39, tokens, columns);
    }
    CHECK(wrong == 0);
  }
}

TEST_CASE("cpu kernels multiply blocks by panels of every size exactly") {
  for (const Kernels* kernels : tables()) {
    if (kernels->dot_block_panels[0] == nullptr) continue;
    CAPTURE(kernels->label);
    const bool by_pairs = kernels->dot_block_bf16 != nullptr;
    CHECK_FALSE(by_pairs);  // only one of them may want many tokens
    int wrong = 0;
    const auto check = [&](std::int64_t rows, std::int64_t tokens, std::int64_t columns) {
      const IntegerProduct product(rows, tokens, columns);
      wrong += product.disagreeing(kernels->dot_block_panels);
    };
    for (std::int64_t columns = 0; columns <= 70; ++columns) check(29, 5, columns);
    for (std::int64_t rows = 1; rows <= 53; ++rows) {
      for (std::int64_t tokens = 1; tokens <= 9; ++tokens) check(rows, tokens, 43);
    }
    check(72, 132, cpu::kPanelColumns);
    check(71, 131, cpu::kPanelColumns - 1);
    CHECK(wrong == 0);
  }
}

TEST_CASE("cpu kernels quantise rows to int8 bit for bit as quant does") {
  for (const Kernels* kernels : tables()) {
    CAPTURE(kernels->label);
    int wrong = 0;
    std::uint32_t state = 1;
    const auto random = [&] {  // in [−1, 1)
      state = state * 1664525u + 1013904223u;
      return static_cast<float>(static_cast<std::int32_t>(state)) * 0x1p-31f;
    };
    for (std::size_t width = 0; width <= 150; ++width) {
      for (const int exponent : {-140, -30, -21, -6, 0, 7, 100}) {
        std::vector<float> weights(width);
        for (float& w : weights) w = std::ldexp(random(), exponent);
        // Quarters of a step, and ties, where the scale is 1.
        if (exponent == 7 && width > 0) {
          for (float& w : weights) w = std::round(w * 4.0f) / 4.0f;
          weights[width / 2] = width % 2 == 0 ? 127.5f : -127.5f;
        }
        std::vector<std::int8_t> expected(width), found(width + 1, 99);
        const std::uint16_t scale = int8_quantise_row(weights, expected);
        bf16_t found_scale[2] = {{0xffff}, {0xffff}};
        wrong += !kernels->quantise_int8(weights.data(), found.data(), found_scale,
                                         static_cast<std::int64_t>(width));
        wrong += found.back() != 99 || found_scale[1].bits != 0xffff;
        found.pop_back();
        wrong += found != expected || found_scale[0].bits != scale;
      }
    }
    CHECK(wrong == 0);
  }
}

TEST_CASE("cpu kernels refuse to quantise NaN and infinity wherever they stand") {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  for (const Kernels* kernels : tables()) {
    CAPTURE(kernels->label);
    std::vector<float> weights(75, 1.0f);
    weights[3] = std::numeric_limits<float>::max();
    std::vector<std::int8_t> q(75);
    bf16_t scale;
    CHECK(kernels->quantise_int8(weights.data(), q.data(), &scale, 75));
    for (const float bad : {kInfinity, -kInfinity, std::numeric_limits<float>::quiet_NaN()}) {
      int accepted = 0;
      for (std::size_t i = 0; i < weights.size(); ++i) {
        std::vector<float> broken = weights;
        broken[i] = bad;
        accepted += kernels->quantise_int8(broken.data(), q.data(), &scale, 75);
      }
      CHECK(accepted == 0);
    }
  }
}

TEST_CASE("cpu kernels turn every int8 into bf16 exactly") {
  for (const Kernels* kernels : tables()) {
    if (kernels->int8_to_bf16 == nullptr) continue;
    CAPTURE(kernels->label);
    std::vector<std::int8_t> bytes;
    for (int i = 0; i < 512; ++i) bytes.push_back(static_cast<std::int8_t>(i * 37 % 256 - 128));
    for (std::size_t count = 0; count <= bytes.size(); count += count < 70 ? 1 : 67) {
      std::vector<bf16_t> out(count + 1, bf16_t{0xffff});
      kernels->int8_to_bf16(bytes.data(), out.data(), static_cast<std::int64_t>(count));
      int wrong = out.back().bits != 0xffff;
      for (std::size_t i = 0; i < count; ++i) {
        wrong += to_float(out[i]) != static_cast<float>(bytes[i]);
      }
      CHECK(wrong == 0);
    }
  }
}

// Sets ENGINE_ISA for one scope.
class ForcedIsa {
 public:
  explicit ForcedIsa(const char* value) {
    if (const char* old = std::getenv("ENGINE_ISA")) {
      had_ = true;
      old_ = old;
    }
    if (value != nullptr) {
      setenv("ENGINE_ISA", value, 1);
    } else {
      unsetenv("ENGINE_ISA");
    }
  }
  ~ForcedIsa() {
    if (had_) {
      setenv("ENGINE_ISA", old_.c_str(), 1);
    } else {
      unsetenv("ENGINE_ISA");
    }
  }

 private:
  bool had_ = false;
  std::string old_;
};

TEST_CASE("ENGINE_ISA forces the instruction set, and another word is a usage error") {
  {
    const ForcedIsa forced(nullptr);
    CHECK(&cpu::choose_kernels() == tables().back());  // the widest
  }
  for (const Kernels* kernels : tables()) {
    const ForcedIsa forced(kernels->name);
    CHECK(std::string(cpu::choose_kernels().name) == kernels->name);
  }
  for (const char* word : {"", "AVX2", "avx", "sse2"}) {
    CAPTURE(word);
    const ForcedIsa forced(word);
    const Outcome outcome = outcome_of([] { cpu::choose_kernels(); });
    CHECK(outcome.is(ErrorKind::kUsage));
    CHECK(outcome.says("ENGINE_ISA="));
  }
}

}  // namespace
}  // namespace engine::test
