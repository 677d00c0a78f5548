#include "engine/model/rope.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <numbers>

#include "kernels/core/check.h"

namespace engine {
namespace {

constexpr double kTwoPi = 2.0 * std::numbers::pi;

// theta^(2i / Dh), the inverse of the default frequencies.
std::vector<float> position_frequencies(const RopeConfig& config, std::int64_t head_dim) {
  std::vector<float> result(static_cast<std::size_t>(head_dim / 2));
  for (std::size_t i = 0; i < result.size(); ++i) {
    const float exponent = static_cast<float>(2 * i) / static_cast<float>(head_dim);
    result[i] = std::pow(static_cast<float>(config.theta), exponent);
  }
  return result;
}

// The blend of llama3, for one frequency.
float llama3_frequency(const RopeConfig& config, float frequency) {
  const auto factor = static_cast<float>(config.factor);
  const auto low = static_cast<float>(config.low_freq_factor);
  const auto original = static_cast<double>(config.original_positions);
  const float wavelength = (1.0f / frequency) * static_cast<float>(kTwoPi);
  if (wavelength > static_cast<float>(original / config.low_freq_factor)) {
    return frequency / factor;
  }
  if (wavelength < static_cast<float>(original / config.high_freq_factor)) {
    return frequency;
  }
  const float smooth = ((1.0f / wavelength) * static_cast<float>(original) - low) /
                       static_cast<float>(config.high_freq_factor - config.low_freq_factor);
  return (1.0f - smooth) * frequency / factor + smooth * frequency;
}

// The (fractional) pair index whose frequency makes `rotations` turns over the original context.
double yarn_dimension(const RopeConfig& config, std::int64_t head_dim, double rotations) {
  const auto original = static_cast<double>(config.original_positions);
  return static_cast<double>(head_dim) * std::log(original / (rotations * kTwoPi)) /
         (2.0 * std::log(config.theta));
}

// Frequencies above the ramp turn often and stay, those below it are divided by the factor.
std::vector<float> yarn_frequencies(const RopeConfig& config, std::int64_t head_dim) {
  const double low = std::max(std::floor(yarn_dimension(config, head_dim, config.beta_fast)), 0.0);
  double high = std::min(std::ceil(yarn_dimension(config, head_dim, config.beta_slow)),
                         static_cast<double>(head_dim - 1));
  if (low == high) {
    high += 0.001;  // keeps the ramp's slope finite, as in the reference
  }
  std::vector<float> result = position_frequencies(config, head_dim);
  for (std::size_t i = 0; i < result.size(); ++i) {
    const float ramp = std::clamp(
        (static_cast<float>(i) - static_cast<float>(low)) / static_cast<float>(high - low), 0.0f,
        1.0f);
    const float kept = 1.0f - ramp;
    const float unscaled = 1.0f / result[i];
    const float scaled = 1.0f / (static_cast<float>(config.factor) * result[i]);
    result[i] = scaled * (1.0f - kept) + unscaled * kept;
  }
  return result;
}

}  // namespace

std::string_view rope_kind_name(RopeKind kind) {
  switch (kind) {
    case RopeKind::kDefault:
      return "default";
    case RopeKind::kLinear:
      return "linear";
    case RopeKind::kLlama3:
      return "llama3";
    case RopeKind::kYarn:
      return "yarn";
  }
  return "?";
}

std::vector<float> rope_inverse_frequencies(const RopeConfig& config, std::int64_t head_dim) {
  ENGINE_REQUIRE(head_dim > 0 && head_dim % 2 == 0,
                 "RoPE: expected a positive even head size, found ", head_dim);
  if (config.kind == RopeKind::kYarn) {
    return yarn_frequencies(config, head_dim);
  }
  std::vector<float> result = position_frequencies(config, head_dim);
  for (float& frequency : result) {
    frequency = 1.0f / frequency;
    if (config.kind == RopeKind::kLinear) {
      frequency /= static_cast<float>(config.factor);
    } else if (config.kind == RopeKind::kLlama3) {
      frequency = llama3_frequency(config, frequency);
    }
  }
  return result;
}

float rope_attention_factor(const RopeConfig& config) {
  if (config.kind != RopeKind::kYarn) {
    return 1.0f;
  }
  const double computed = config.factor <= 1.0 ? 1.0 : 0.1 * std::log(config.factor) + 1.0;
  return static_cast<float>(config.attention_factor.value_or(computed));
}

std::vector<float> rope_table(const RopeConfig& config, std::int64_t head_dim,
                              std::int64_t positions) {
  ENGINE_REQUIRE(positions >= 0, "RoPE: expected a number of positions, found ", positions);
  const std::vector<float> frequencies = rope_inverse_frequencies(config, head_dim);
  const float scale = rope_attention_factor(config);
  const std::size_t half = frequencies.size();
  std::vector<float> table(static_cast<std::size_t>(positions) * 2 * half);  // (positions, Dh)
#pragma omp parallel for schedule(static)
  for (std::int64_t position = 0; position < positions; ++position) {
    float* row = table.data() + static_cast<std::size_t>(position) * 2 * half;  // (Dh)
    for (std::size_t i = 0; i < half; ++i) {
      const double angle = static_cast<float>(position) * frequencies[i];  // rounded to fp32
      row[i] = static_cast<float>(std::cos(angle)) * scale;
      row[half + i] = static_cast<float>(std::sin(angle)) * scale;
    }
  }
  return table;
}

}  // namespace engine
