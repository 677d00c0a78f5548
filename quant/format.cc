#include "quant/format.h"

#include <array>
#include <cstring>

#include "quant/half.h"
#include "quant/int8.h"

namespace engine {
namespace {

template <std::size_t kBytes>
std::size_t plain_row_bytes(std::size_t columns) {
  return columns * kBytes;
}

void decode_f32(std::span<const std::byte> row, const std::byte*, std::span<float> out) {
  if (out.empty()) return;  // memcpy takes no null, not even for no bytes
  std::memcpy(out.data(), row.data(), out.size_bytes());
}

template <float (*kDecode)(std::uint16_t)>
void decode_16bit(std::span<const std::byte> row, const std::byte*, std::span<float> out) {
  for (std::size_t i = 0; i < out.size(); ++i) {
    std::uint16_t bits;
    std::memcpy(&bits, row.data() + i * sizeof(bits), sizeof(bits));
    out[i] = kDecode(bits);
  }
}

constexpr std::array<FormatInfo, 4> kFormats = {{
    {QuantFormat::kF32, "f32", plain_row_bytes<4>, 0, decode_f32},
    {QuantFormat::kF16, "f16", plain_row_bytes<2>, 0, decode_16bit<f16_to_float>},
    {QuantFormat::kBF16, "bf16", plain_row_bytes<2>, 0, decode_16bit<bf16_to_float>},
    {QuantFormat::kInt8, "int8", plain_row_bytes<1>, 2, int8_decode_row},
}};

}  // namespace

const FormatInfo& format_info(QuantFormat format) {
  return kFormats[static_cast<std::size_t>(format)];
}

}  // namespace engine
