// The table of weight formats.
#include "quant/format.h"

#include <doctest/doctest.h>

#include <cmath>
#include <cstddef>
#include <cstring>
#include <span>
#include <vector>

#include "quant/half.h"

namespace engine::test {
namespace {

constexpr QuantFormat kFormats[] = {QuantFormat::kF32, QuantFormat::kF16, QuantFormat::kBF16};

TEST_CASE("format_info finds the row of its own format") {
  const char* names[] = {"f32", "f16", "bf16"};
  for (std::size_t i = 0; i < 3; ++i) {
    CHECK(format_info(kFormats[i]).format == kFormats[i]);
    CHECK(format_info(kFormats[i]).name == names[i]);
  }
}

TEST_CASE("plain formats take the size of their element per weight") {
  for (const std::size_t columns :
       {std::size_t{0}, std::size_t{1}, std::size_t{43}, std::size_t{4096}}) {
    CHECK(format_info(QuantFormat::kF32).row_bytes(columns) == 4 * columns);
    CHECK(format_info(QuantFormat::kF16).row_bytes(columns) == 2 * columns);
    CHECK(format_info(QuantFormat::kBF16).row_bytes(columns) == 2 * columns);
  }
  for (const QuantFormat format : kFormats) CHECK(format_info(format).scale_bytes == 0);
}

template <typename Element>
std::vector<float> decode(QuantFormat format, const std::vector<Element>& stored) {
  // One byte off any alignment: rows of a file start anywhere.
  std::vector<std::byte> bytes(stored.size() * sizeof(Element) + 1);
  if (!stored.empty()) {
    std::memcpy(bytes.data() + 1, stored.data(), stored.size() * sizeof(Element));
  }
  std::vector<float> out(stored.size() + 1, -7.0f);
  const std::span<float> row(out.data(), stored.size());
  format_info(format).decode_row({bytes.data() + 1, bytes.size() - 1}, nullptr, row);
  CHECK(out.back() == -7.0f);
  out.pop_back();
  return out;
}

TEST_CASE("rows decode to their values in every format") {
  const std::vector<float> floats = {0.0f, -1.5f, 3e38f, 1e-40f, INFINITY};
  CHECK(decode(QuantFormat::kF32, floats) == floats);
  // Sign, subnormal, one, greatest and infinity of each 16-bit type.
  CHECK(decode<std::uint16_t>(QuantFormat::kF16, {0x0000, 0x8001, 0x3c00, 0x7bff, 0xfc00}) ==
        std::vector<float>{0.0f, -0x1p-24f, 1.0f, 65504.0f, -INFINITY});
  CHECK(decode<std::uint16_t>(QuantFormat::kBF16, {0x0000, 0x8001, 0x3f80, 0x7f7f, 0xff80}) ==
        std::vector<float>{0.0f, -0x1p-133f, 1.0f, 0x1.fep127f, -INFINITY});
  CHECK(std::isnan(decode<std::uint16_t>(QuantFormat::kF16, {0x7e00})[0]));
  CHECK(std::isnan(decode<std::uint16_t>(QuantFormat::kBF16, {0x7fc0})[0]));
}

TEST_CASE("a row of no weights decodes to nothing") {
  for (const QuantFormat format : kFormats) CHECK(decode<std::uint16_t>(format, {}).empty());
}

}  // namespace
}  // namespace engine::test
