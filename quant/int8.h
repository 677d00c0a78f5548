// Weight-only int8: per output channel, symmetric.
//
// A row of weights w is stored as bytes q and one scale, held as bf16 whatever the compute type:
//   s = max(max|w| ÷ 127.5, 2⁻²³),  scale = bf16(s),
//   q = clamp(round-half-even(w ÷ float(scale)), −128, 127),  w ≈ q · float(scale).
// The division is by the scale as stored. All functions are pure; rows are independent.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace engine {

// Whether every element is finite; a row that holds NaN or infinity has no int8 form.
bool int8_can_quantise(std::span<const float> weights);

// Writes q (as many bytes as weights) and returns the bits of the bf16 scale. The weights are
// finite.
std::uint16_t int8_quantise_row(std::span<const float> weights, std::span<std::int8_t> q);

// out[i] = q[i] · float(scale), exact in fp32 up to one rounding; the decoder of format.h.
void int8_decode_row(std::span<const std::byte> row, const std::byte* scale, std::span<float> out);

// How far decoded rows are from the weights they came from.
struct Int8Error {
  double squared_error = 0;    // Σ (decoded − w)²
  double squared_weights = 0;  // Σ w²
  double largest = 0;          // max |decoded − w|
  double worst_row_nmse = 0;   // of the row that fares worst

  double nmse() const { return squared_weights > 0 ? squared_error / squared_weights : 0; }
  // Adds one row.
  void add_row(std::span<const float> weights, std::span<const float> decoded);
};

}  // namespace engine
