#include "quant/int8.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>

#include "quant/half.h"

namespace engine {

namespace {

constexpr std::int32_t kInfinityBits = 0x7f800000;

// The bits of the largest magnitude; as integers they compare like the magnitudes, those of NaN
// above infinity's, and a compiler vectorises their maximum.
std::int32_t largest_bits(std::span<const float> weights) {
  std::int32_t largest = 0;
  for (const float w : weights) {
    largest = std::max(largest, std::bit_cast<std::int32_t>(w) & 0x7fffffff);
  }
  return largest;
}

}  // namespace

bool int8_can_quantise(std::span<const float> weights) {
  return largest_bits(weights) < kInfinityBits;
}

std::uint16_t int8_quantise_row(std::span<const float> weights, std::span<std::int8_t> q) {
  const float largest = std::bit_cast<float>(largest_bits(weights));
  const std::uint16_t bits = float_to_bf16(std::max(largest / 127.5f, 0x1p-23f));
  const float scale = bf16_to_float(bits);
  // Quotients lie within ±129, where floats this large are a whole number apart: adding one rounds
  // half to even, in the default rounding mode, which nobody here changes.
  constexpr float kWhole = 0x1.8p23f;
  for (std::size_t i = 0; i < weights.size(); ++i) {
    const float rounded = weights[i] / scale + kWhole - kWhole;
    q[i] = static_cast<std::int8_t>(std::clamp(rounded, -128.0f, 127.0f));
  }
  return bits;
}

void int8_decode_row(std::span<const std::byte> row, const std::byte* scale, std::span<float> out) {
  std::uint16_t bits = 0;
  std::memcpy(&bits, scale, sizeof(bits));
  const float factor = bf16_to_float(bits);
  for (std::size_t i = 0; i < out.size(); ++i) {
    out[i] = static_cast<float>(static_cast<std::int8_t>(row[i])) * factor;
  }
}

void Int8Error::add_row(std::span<const float> weights, std::span<const float> decoded) {
  double error = 0, power = 0;
  for (std::size_t i = 0; i < weights.size(); ++i) {
    const double difference = static_cast<double>(decoded[i]) - static_cast<double>(weights[i]);
    error += difference * difference;
    power += static_cast<double>(weights[i]) * static_cast<double>(weights[i]);
    largest = std::max(largest, std::fabs(difference));
  }
  squared_error += error;
  squared_weights += power;
  if (power > 0) worst_row_nmse = std::max(worst_row_nmse, error / power);
}

}  // namespace engine
