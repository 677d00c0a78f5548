#include "kernels/cases/cases.h"
#include "tests/support/backends.h"
#include "tests/support/bounds.h"
#include "tests/support/guarded.h"

namespace engine::test {
namespace {

// Cosines and sines at base 10000, rounded to fp32: (P, Dh).
Values rope_table(std::int64_t positions, std::int64_t head_size) {
  const auto width = static_cast<std::size_t>(head_size), half = width / 2;
  Values table(static_cast<std::size_t>(positions) * width);
  for (std::size_t i = 0; i < half; ++i) {
    const double frequency =
        std::pow(1e4, -2.0 * static_cast<double>(i) / static_cast<double>(width));
    for (std::size_t p = 0; p < static_cast<std::size_t>(positions); ++p) {
      const double angle = static_cast<double>(p) * frequency;
      table[p * width + i] = reference::round_to(DType::kF32, std::cos(angle));
      table[p * width + half + i] = reference::round_to(DType::kF32, std::sin(angle));
    }
  }
  return table;
}

double rope_nmse(DType dtype) { return 4.0 * kFp32 * kFp32 + rounding_nmse(dtype); }

TEST_CASE("rope of every size and type is within its bound") {
  on_every_backend([](Backend& backend) {
    for (const cases::RopeCase& problem : cases::rope_cases()) {
      const Values table = rope_table(problem.position + problem.tokens + 2, problem.head_size);
      const Guarded table_tensor(backend, DType::kF32,
                                 {problem.position + problem.tokens + 2, problem.head_size}, table);
      const Guarded position(backend, DType::kI32, {1},
                             Values{static_cast<double>(problem.position)});
      for (const DType dtype : cases::kFloatTypes) {
        const Shape shape = {problem.tokens, problem.heads, problem.head_size};
        const Values x = uniform(shape.numel(), 1, dtype, -2.0, 2.0);
        const Bounded expected = rope_bounded(exact(x), table, problem.heads, problem.head_size,
                                              problem.position, dtype);
        for (const Layout& layout : {kDense, kOddStrides, kWideStrides}) {
          const Guarded x_tensor(backend, dtype, shape, x, layout);
          Guarded out(backend, dtype, shape, layout);
          backend.ops().rope(
              {.out = out, .x = x_tensor, .table = table_tensor, .position = position});
          const std::string what = concat("rope ", problem.name(), " ", dtype);
          const Values found = out.get(what);
          check_close(what, found, expected.value, expected.error);
          check_nmse(what, found, expected.value, rope_nmse(dtype));
        }
      }
    }
  });
}

TEST_CASE("rope in place on a slice of heads leaves the other heads alone") {
  on_every_backend([](Backend& backend) {
    for (const DType dtype : cases::kFloatTypes) {
      const std::int64_t tokens = 5, heads = 6, head_size = 24;
      const Values joined = uniform(tokens * heads * head_size, 2, dtype);
      const Values table = rope_table(40, head_size);
      const Guarded table_tensor(backend, DType::kF32, {40, head_size}, table);
      const Guarded position(backend, DType::kI32, {1}, Values{17});
      Guarded tensor(backend, dtype, {tokens, heads * head_size}, joined);
      const Tensor part = tensor.tensor().split(1, head_size).slice(1, 2, 3);
      backend.ops().rope({.out = part, .x = part, .table = table_tensor, .position = position});
      const Values found = tensor.get("joined");
      const std::int64_t row = heads * head_size;
      const Bounded expected =
          rope_bounded(exact(columns(joined, row, 2 * head_size, 3 * head_size)), table, 3,
                       head_size, 17, dtype);
      check_close("rotated", columns(found, row, 2 * head_size, 3 * head_size), expected.value,
                  expected.error);
      check_equal("heads before", columns(found, row, 0, 2 * head_size),
                  columns(joined, row, 0, 2 * head_size));
      check_equal("heads after", columns(found, row, 5 * head_size, head_size),
                  columns(joined, row, 5 * head_size, head_size));
    }
  });
}

TEST_CASE("rope clamps positions past the end of its table") {
  on_every_backend([](Backend& backend) {
    const Values table = rope_table(6, 8), x = uniform(5 * 2 * 8, 3, DType::kF32);
    const Guarded table_tensor(backend, DType::kF32, {6, 8}, table);
    const Guarded x_tensor(backend, DType::kF32, {5, 2, 8}, x);
    for (const std::int64_t start : {3, 5, 6, 1000000, 2147483640}) {
      const Guarded position(backend, DType::kI32, {1}, Values{static_cast<double>(start)});
      Guarded out(backend, DType::kF32, {5, 2, 8});
      backend.ops().rope({.out = out, .x = x_tensor, .table = table_tensor, .position = position});
      const Bounded expected = rope_bounded(exact(x), table, 2, 8, start, DType::kF32);
      check_close(concat("rope at ", start), out.get("out"), expected.value, expected.error);
    }
  });
}

TEST_CASE("rope keeps a NaN to its own pair") {
  on_every_backend([](Backend& backend) {
    for (const DType dtype : cases::kFloatTypes) {
      Values x = uniform(3 * 2 * 8, 4, dtype);
      x[21] = kNan;
      const Values table = rope_table(9, 8);
      const Guarded table_tensor(backend, DType::kF32, {9, 8}, table);
      const Guarded x_tensor(backend, dtype, {3, 2, 8}, x);
      const Guarded position(backend, DType::kI32, {1}, Values{5});
      Guarded out(backend, dtype, {3, 2, 8});
      backend.ops().rope({.out = out, .x = x_tensor, .table = table_tensor, .position = position});
      const Bounded expected = rope_bounded(exact(x), table, 2, 8, 5, dtype);
      check_close("rope", out.get("out"), expected.value, expected.error);
    }
  });
}

}  // namespace
}  // namespace engine::test
