// Weights of tests: random matrices, uploaded the way a model's are.
#pragma once

#include <cmath>
#include <cstring>
#include <memory>
#include <vector>

#include "kernels/backend.h"
#include "tests/support/inputs.h"

namespace engine::test {

// A matrix on the host, as stored. Cheap to copy.
struct HostMatrix {
  DType dtype = DType::kF32;
  std::int64_t rows = 0, columns = 0;
  std::shared_ptr<std::vector<std::byte>> bytes;

  std::size_t row_bytes() const { return static_cast<std::size_t>(columns) * dtype_size(dtype); }

  // Row `row` as doubles, appended to `out`.
  void append_row(std::int64_t row, Values& out) const {
    const std::byte* at = bytes->data() + static_cast<std::size_t>(row) * row_bytes();
    for (std::size_t i = 0; i < row_bytes(); i += dtype_size(dtype)) {
      out.push_back(decode(dtype, at + i));
    }
  }
  Values values() const {
    Values out;
    for (std::int64_t row = 0; row < rows; ++row) append_row(row, out);
    return out;
  }

  HostWeight source() const {
    return {"test", dtype, rows, columns,
            [copy = *this](std::int64_t row, std::int64_t count, std::byte* destination) {
              std::memcpy(destination,
                          copy.bytes->data() + static_cast<std::size_t>(row) * copy.row_bytes(),
                          static_cast<std::size_t>(count) * copy.row_bytes());
            }};
  }
};

inline HostMatrix matrix_of(DType dtype, std::int64_t rows, std::int64_t columns,
                            const Values& values) {
  auto bytes = std::make_shared<std::vector<std::byte>>(values.size() * dtype_size(dtype));
  encode(dtype, values, bytes->data());
  return {dtype, rows, columns, std::move(bytes)};
}

// What the stored form of a matrix in `format` decodes to, row after row.
inline Values decoded(const HostMatrix& matrix, QuantFormat format) {
  const Values values = matrix.values();
  if (format != QuantFormat::kInt8) return values;
  return reference::int8_quantise(values, matrix.columns).decoded;
}

// Uniform in [−1, 1) · 2^exponent: multiples of 2^-24 in f32, of 2^-10 in f16 and 2^-7 in bf16
// (times the power), which each holds exactly; made as integers, since real sizes have 10^8 of
// them.
inline HostMatrix random_matrix(DType dtype, std::int64_t rows, std::int64_t columns,
                                std::uint64_t seed, int exponent = 0) {
  const auto count = static_cast<std::size_t>(rows * columns);
  auto bytes = std::make_shared<std::vector<std::byte>>(count * dtype_size(dtype));
  Random random(seed);
  const int fraction = dtype == DType::kF32 ? 24 : dtype == DType::kF16 ? 10 : 7;
  const float scale = std::ldexp(1.0f, exponent);
  std::array<std::uint16_t, 2048> half{};  // the element of each integer
  for (std::size_t i = 0; i < half.size(); ++i) {
    const float value =
        (std::ldexp(static_cast<float>(i % (2u << fraction)), -fraction) - 1.0f) * scale;
    half[i] = dtype == DType::kF16 ? float_to_f16(value) : float_to_bf16(value);
  }
  for (std::size_t i = 0; i < count; ++i) {
    const std::uint64_t bits = random.bits();
    if (dtype == DType::kF32) {
      const float value = (static_cast<float>(bits >> 39) * 0x1p-24f - 1.0f) * scale;
      std::memcpy(bytes->data() + 4 * i, &value, 4);
    } else {
      std::memcpy(bytes->data() + 2 * i, &half[bits >> 53 & ((2u << fraction) - 1)], 2);
    }
  }
  return {dtype, rows, columns, std::move(bytes)};
}

// With entries below √(3 ÷ K) at most, so that products keep the scale of what they multiply.
inline HostMatrix scaled_matrix(DType dtype, std::int64_t rows, std::int64_t inputs,
                                std::uint64_t seed) {
  const double reach = std::sqrt(3.0 / static_cast<double>(inputs));
  return random_matrix(dtype, rows, inputs, seed, std::ilogb(reach));
}

// A weight on a backend and the memory that holds it.
class UploadedWeight {
 public:
  UploadedWeight(Backend& backend, const std::vector<HostMatrix>& parts, QuantFormat format) {
    const std::unique_ptr<Uploader> uploader = backend.uploader();
    std::vector<HostWeight> sources;
    for (const HostMatrix& part : parts) sources.push_back(part.source());
    weight_ = uploader->add(std::move(sources), format);
    memory_ = uploader->finish([](std::size_t) {});
  }
  UploadedWeight(Backend& backend, const HostMatrix& matrix)
      : UploadedWeight(backend, {matrix}, plain_format(matrix.dtype)) {}

  operator const Weight&() const { return weight_; }  // NOLINT: stands for its weight in a call
  const Weight& weight() const { return weight_; }

 private:
  Weight weight_;
  std::vector<Buffer> memory_;
};

}  // namespace engine::test
