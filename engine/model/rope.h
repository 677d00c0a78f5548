// Rotary position embeddings: frequencies and the table of cosines and sines.
//
// Formulas, and the precision of each step, are those of transformers (modeling_rope_utils.py):
// frequencies and angles are fp32 throughout, which matters at long contexts, where another
// rounding of an angle of 10^5 radians is another angle. Free functions without state.
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>
#include <vector>

namespace engine {

enum class RopeKind : std::uint8_t { kDefault, kLinear, kLlama3, kYarn };

// "default", "linear", "llama3", "yarn": the names in config.json.
std::string_view rope_kind_name(RopeKind kind);

struct RopeConfig {
  RopeKind kind = RopeKind::kDefault;
  double theta = 10000.0;
  double factor = 1.0;                       // linear, llama3, yarn
  double low_freq_factor = 1.0;              // llama3
  double high_freq_factor = 4.0;             // llama3
  std::int64_t original_positions = 0;       // llama3, yarn: the context length before scaling
  double beta_fast = 32.0;                   // yarn
  double beta_slow = 1.0;                    // yarn
  std::optional<double> attention_factor{};  // yarn; nothing: from `factor`

  bool operator==(const RopeConfig&) const = default;
};

// The frequencies (Dh / 2) of a head of even size `head_dim` = Dh, in radians per position:
//   default  f_i = 1 / theta^(2i / Dh)
//   linear   f_i / factor
//   llama3   with the wavelength w = 2 pi / f_i: f_i where w < original / high_freq_factor,
//            f_i / factor where w > original / low_freq_factor, and between them a blend of the two
//   yarn     a blend of f_i and f_i / factor along a ramp over i
// Error{kInternal} for a head_dim that is not positive and even.
std::vector<float> rope_inverse_frequencies(const RopeConfig& config, std::int64_t head_dim);

// What cosines and sines are multiplied by: for yarn the config's attention_factor, or
// 0.1 ln(factor) + 1 (1 where factor <= 1); 1 for every other kind.
float rope_attention_factor(const RopeConfig& config);

// The table (positions, Dh), row-major: cosines in columns [0, Dh / 2), sines in [Dh / 2, Dh), of
// the fp32 angle position x f_i, each correctly rounded to fp32 (but for ties of the double
// result) and then multiplied by the attention factor.
std::vector<float> rope_table(const RopeConfig& config, std::int64_t head_dim,
                              std::int64_t positions);

}  // namespace engine
