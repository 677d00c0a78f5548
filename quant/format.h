// The table of weight formats: how one row (one output channel) of a weight matrix is stored.
//
// A format is a row of kFormats. It is a leaf of the dependency order: it knows bytes and spans,
// not tensors or devices. Everything here is pure and may be called from any thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

namespace engine {

enum class QuantFormat : std::uint8_t { kF32, kF16, kBF16, kInt8 };

struct FormatInfo {
  QuantFormat format;
  std::string_view name;
  // Bytes of one row of `columns` weights, scales not included.
  std::size_t (*row_bytes)(std::size_t columns);
  // Bytes of the scale of one row; 0 for formats without scales.
  std::size_t scale_bytes;
  // Decodes one stored row into out.size() floats; row.size() == row_bytes(out.size()). `scale` is
  // the row's, scale_bytes of it; null for formats without scales.
  void (*decode_row)(std::span<const std::byte> row, const std::byte* scale, std::span<float> out);
};

// The row of the table for `format`.
const FormatInfo& format_info(QuantFormat format);

}  // namespace engine
