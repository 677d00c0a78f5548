// Synthetic data, timers and streams of every backend, and weights packed on the device.
#include "kernels/measure.h"

#include <doctest/doctest.h>

#include <chrono>
#include <cmath>
#include <cstring>
#include <limits>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "kernels/core/philox.h"
#include "quant/format.h"
#include "quant/half.h"
#include "quant/int8.h"
#include "tests/support/backends.h"
#include "tests/support/guarded.h"
#include "tests/support/outcome.h"

namespace engine::test {
namespace {

constexpr RandomSource kSource = {.seed = 1234, .stream = 0x1'0000'0007u};

std::size_t bytes_of(DType dtype, std::int64_t count) {
  return static_cast<std::size_t>(count) * dtype_size(dtype);
}

std::vector<float> normals(Backend& backend, std::int64_t count, float sigma, RandomSource source) {
  Buffer memory = backend.allocate(bytes_of(DType::kF32, count));
  const Tensor tensor = memory.tensor(DType::kF32, {count});
  backend.measure()->fill_normal(tensor, sigma, source);
  std::vector<float> values(static_cast<std::size_t>(count));
  backend.read(values.data(), tensor);
  return values;
}

// Every backend computes the transform in fp32: uniforms and angle are the same bits everywhere;
// log, sqrt, cos and the products round a few times each. At the largest radius, √(−2 ln 2⁻²⁴) =
// 5.77, sixteen half-ulps of fp32 cover them.
constexpr float kNormalTolerance = 16 * 0x1p-24f * 5.77f;

TEST_CASE("element i of a random tensor is a function of seed, stream and i alone") {
  on_every_backend([](Backend& backend) {
    for (const std::int64_t count : {1, 3, 4, 7, 1023, 1025, 70001}) {
      CAPTURE(count);
      const std::vector<float> values = normals(backend, count, 1.0f, kSource);
      for (std::size_t i = 0; i < values.size(); ++i) {
        const float expected = normal4(kSource.seed, kSource.stream, i / 4).value[i % 4];
        REQUIRE(std::fabs(values[i] - expected) <= kNormalTolerance);
      }
    }
    const std::vector<float> base = normals(backend, 64, 1.0f, kSource);
    CHECK(base == normals(backend, 64, 1.0f, kSource));
    CHECK(base != normals(backend, 64, 1.0f, {.seed = 1235, .stream = kSource.stream}));
    CHECK(base != normals(backend, 64, 1.0f, {.seed = 1234, .stream = 7}));
  });
}

// Bounds are five standard errors of each estimate over n independent normals: 1/√n of the mean,
// √(2/n) of the variance, √(p (1 − p)/n) of a share p.
TEST_CASE("random tensors are normal with the deviation asked for") {
  on_every_backend([](Backend& backend) {
    constexpr std::int64_t kCount = 1 << 20;
    constexpr double kSigma = 0.02, kBeyondTwo = 0.0455003;
    const double n = kCount;
    double sum = 0, squares = 0, beyond = 0, neighbours = 0, last = 0;
    for (const float value : normals(backend, kCount, 0.02f, kSource)) {
      const double z = static_cast<double>(value) / kSigma;
      sum += z;
      squares += z * z;
      beyond += std::fabs(z) > 2 ? 1 : 0;
      neighbours += z * last;
      last = z;
    }
    CHECK(std::fabs(sum / n) < 5 / std::sqrt(n));
    CHECK(std::fabs(squares / n - 1) < 5 * std::sqrt(2 / n));
    CHECK(std::fabs(beyond / n - kBeyondTwo) < 5 * std::sqrt(kBeyondTwo * (1 - kBeyondTwo) / n));
    CHECK(std::fabs(neighbours / n) < 5 / std::sqrt(n));
  });
}

TEST_CASE("random and constant tensors of 16-bit types are the fp32 values rounded") {
  on_every_backend([](Backend& backend) {
    constexpr std::int64_t kCount = 1029;
    const std::vector<float> exact = normals(backend, kCount, 0.5f, kSource);
    const std::unique_ptr<Measure> measure = backend.measure();
    Buffer memory = backend.allocate(bytes_of(DType::kF32, kCount));
    std::vector<std::uint16_t> bits(kCount);
    for (const DType dtype : {DType::kBF16, DType::kF16}) {
      const Tensor tensor = memory.tensor(dtype, {kCount});
      const auto round = dtype == DType::kBF16 ? float_to_bf16 : float_to_f16;
      measure->fill_normal(tensor, 0.5f, kSource);
      backend.read(bits.data(), tensor);
      for (std::size_t i = 0; i < bits.size(); ++i) REQUIRE(bits[i] == round(exact[i]));
      measure->fill_constant(tensor, 1.1f);
      backend.read(bits.data(), tensor);
      for (const std::uint16_t value : bits) REQUIRE(value == round(1.1f));
    }
  });
}

TEST_CASE("a copy copies, and times lie inside the host's") {
  on_every_backend([](Backend& backend) {
    const std::unique_ptr<Measure> measure = backend.measure();
    CHECK(measure->cache_bytes() >= (std::size_t{1} << 18));
    constexpr std::int64_t kCount = (std::int64_t{32} << 20) + 5;  // not whole vectors
    Buffer from_memory = backend.allocate(bytes_of(DType::kU8, kCount));
    Buffer to_memory = backend.allocate(bytes_of(DType::kU8, kCount));
    std::vector<std::uint8_t> sent(static_cast<std::size_t>(kCount)), got(sent.size());
    for (std::size_t i = 0; i < sent.size(); ++i) {
      sent[i] = static_cast<std::uint8_t>(i * 2654435761u >> 24);
    }
    const Tensor from = from_memory.tensor(DType::kU8, {kCount});
    const Tensor to = to_memory.tensor(DType::kU8, {kCount});
    backend.write(from, sent.data());
    backend.fill_zero(to);
    measure->copy(to, from);
    backend.read(got.data(), to);
    CHECK(sent == got);

    measure->flush_cache();
    backend.synchronize();
    const auto start = std::chrono::steady_clock::now();
    const double once = measure->time([&] { measure->read(from); });
    const double often = measure->time([&] {
      for (int i = 0; i < 32; ++i) measure->read(from);
    });
    const std::chrono::duration<double> all = std::chrono::steady_clock::now() - start;
    CHECK(once > static_cast<double>(kCount) / 1e14);  // 100 TB/s: it was read at all
    CHECK(often > 4 * once);                           // the first read is a cold one
    CHECK(once + often <= all.count() * 1.01 + 1e-5);  // two clocks
    CHECK(outcome_of([&] { measure->copy(to.slice(0, 0, 8), from); }).is(ErrorKind::kInternal));
  });
}

// Weights (rows, 72) of `dtype` on the device and, as they were rounded, on the host.
struct Matrix {
  static constexpr std::int64_t kRows = 40, kColumns = 72;
  Buffer memory;
  std::vector<float> values;

  Matrix(Backend& backend, DType dtype, std::int64_t rows = kRows)
      : memory(backend.allocate(bytes_of(dtype, rows * kColumns))) {
    const Tensor tensor = memory.tensor(dtype, {rows, kColumns});
    backend.measure()->fill_normal(tensor, 0.02f, kSource);
    std::vector<std::byte> raw(tensor.bytes());
    backend.read(raw.data(), tensor);
    values.resize(static_cast<std::size_t>(tensor.numel()));
    format_info(plain_format(dtype)).decode_row(raw, nullptr, values);
  }
};

// The weight as a product with the identity shows it: (K, N), exact in f32, because each sum has
// one term and q · scale has at most 16 significant bits.
std::vector<float> shown(Backend& backend, const Weight& weight) {
  const std::int64_t n = weight.rows, k = weight.columns;
  std::vector<float> identity(static_cast<std::size_t>(k * k), 0.0f);
  for (std::int64_t i = 0; i < k; ++i) identity[static_cast<std::size_t>(i * k + i)] = 1.0f;
  Buffer x_memory = backend.allocate(bytes_of(DType::kF32, k * k));
  Buffer out_memory = backend.allocate(bytes_of(DType::kF32, k * n));
  const Tensor x = x_memory.tensor(DType::kF32, {k, k}),
               out = out_memory.tensor(DType::kF32, {k, n});
  backend.write(x, identity.data());
  run_linear(backend, {.out = out, .x = x, .weight = weight, .residual = {}});
  std::vector<float> values(static_cast<std::size_t>(k * n));
  backend.read(values.data(), out);
  return values;
}

TEST_CASE("a matrix quantised on the device is the one that the host's rule gives, bit for bit") {
  on_every_backend([](Backend& backend) {
    struct Problem {
      DType dtype;
      std::size_t rows;  // the last: more than a backend takes at a time
    };
    for (const auto& [dtype, rows] : {Problem{DType::kBF16, 40}, Problem{DType::kF16, 1},
                                      Problem{DType::kF32, 40}, Problem{DType::kF32, 20001}}) {
      CAPTURE(dtype);
      CAPTURE(rows);
      const auto n = static_cast<std::int64_t>(rows);
      Matrix matrix(backend, dtype, n);
      const std::vector<float> source = matrix.values;
      const PackedWeight packed = backend.pack("w", std::move(matrix.memory), dtype, n,
                                               Matrix::kColumns, QuantFormat::kInt8);
      CHECK(packed.weight.format == QuantFormat::kInt8);
      CHECK(packed.weight.bytes() == rows * 72 + rows * 2);
      const std::vector<float> found = shown(backend, packed.weight);
      std::vector<std::int8_t> q(Matrix::kColumns);
      for (std::size_t row = 0; row < rows; ++row) {
        const auto weights = std::span<const float>(source).subspan(row * 72, 72);
        const float scale = bf16_to_float(int8_quantise_row(weights, q));
        for (std::size_t k = 0; k < 72; ++k) {
          REQUIRE(found[k * rows + row] == static_cast<float>(q[k]) * scale);
        }
      }
    }
  });
}

TEST_CASE("a matrix packed in a plain type is its values rounded to it") {
  on_every_backend([](Backend& backend) {
    for (const DType dtype : {DType::kF32, DType::kBF16}) {
      Matrix matrix(backend, dtype);
      const std::vector<float> source = matrix.values;
      // f32 operands ask for f32 or any narrower weight; bf16 values are exact in both.
      const QuantFormat format = dtype == DType::kF32 ? QuantFormat::kF32 : QuantFormat::kBF16;
      const PackedWeight packed = backend.pack("w", std::move(matrix.memory), dtype, Matrix::kRows,
                                               Matrix::kColumns, format);
      REQUIRE(packed.memory.size() == 1);
      const std::vector<float> found = shown(backend, packed.weight);
      for (std::size_t row = 0; row < 40; ++row) {
        for (std::size_t k = 0; k < 72; ++k) REQUIRE(found[k * 40 + row] == source[row * 72 + k]);
      }
    }
    Matrix matrix(backend, DType::kF32);
    const std::vector<float> source = matrix.values;
    const PackedWeight packed = backend.pack("w", std::move(matrix.memory), DType::kF32,
                                             Matrix::kRows, Matrix::kColumns, QuantFormat::kBF16);
    const std::vector<float> found = shown(backend, packed.weight);
    for (std::size_t row = 0; row < 40; ++row) {
      for (std::size_t k = 0; k < 72; ++k) {
        REQUIRE(found[k * 40 + row] == bf16_to_float(float_to_bf16(source[row * 72 + k])));
      }
    }
  });
}

TEST_CASE("int8 of a matrix with NaN or infinity is refused with its name") {
  on_every_backend([](Backend& backend) {
    for (const float bad :
         {std::numeric_limits<float>::quiet_NaN(), -std::numeric_limits<float>::infinity()}) {
      Buffer memory = backend.allocate(bytes_of(DType::kF32, 6));
      const std::vector<float> values = {1, 2, 3, 4, bad, 6};
      backend.write(memory.tensor(DType::kF32, {2, 3}), values.data());
      const Outcome outcome = outcome_of([&] {
        backend.pack("model.w", std::move(memory), DType::kF32, 2, 3, QuantFormat::kInt8);
      });
      CHECK(outcome.is(ErrorKind::kModel));
      CHECK(outcome.says("model.w"));
    }
  });
}

}  // namespace
}  // namespace engine::test
