#include "kernels/cases/cases.h"
#include "tests/support/backends.h"
#include "tests/support/bounds.h"
#include "tests/support/guarded.h"

namespace engine::test {
namespace {

TEST_CASE("moe_combine of every size and type is within its bound") {
  on_every_backend([](Backend& backend) {
    for (const cases::MoeCase& c : cases::moe_cases()) {
      for (const DType dtype : cases::kFloatTypes) {
        const Shape shape = {c.tokens, c.width};
        const Values y = uniform(shape.numel() * c.top_k, 1, dtype, -2.0, 2.0);
        const Values weights = uniform(c.tokens * c.top_k, 2, DType::kF32, 0.0, 1.0);
        const Values residual = uniform(shape.numel(), 3, dtype, -4.0, 4.0);
        const Bounded expected =
            moe_combine_bounded(exact(y), exact(weights), residual, c.top_k, dtype);
        for (const Layout& layout : {kDense, kOddStrides, kWideStrides}) {
          const Guarded from(backend, dtype, {c.tokens, c.top_k, c.width}, y, layout);
          const Guarded by(backend, DType::kF32, {c.tokens, c.top_k}, weights, layout);
          const Guarded added(backend, dtype, shape, residual, layout);
          Guarded out(backend, dtype, shape, layout), in_place(backend, dtype, shape, residual);
          backend.ops().moe_combine({.out = out, .y = from, .weights = by, .residual = added});
          backend.ops().moe_combine(
              {.out = in_place, .y = from, .weights = by, .residual = in_place});
          const std::string what = concat("moe_combine ", c.name(), " ", dtype);
          const Values found = out.get(what);
          check_close(what, found, expected.value, expected.error);
          check_nmse(what, found, expected.value,
                     kFp32 * kFp32 * static_cast<double>(2 * c.top_k + 4) + rounding_nmse(dtype));
          check_equal(what + " in place", in_place.get(what), found);
        }
      }
    }
  });
}

TEST_CASE("moe_combine adds up in fp32 and rounds once") {
  // 2048 + 0.25 · 4: every partial sum would lose its quarter in f16 or bf16.
  on_every_backend([](Backend& backend) {
    for (const DType dtype : cases::kFloatTypes) {
      const Values y = {1, 1, 1, 1, 1};
      const Guarded from(backend, dtype, {1, 5, 1}, y);
      const Guarded by(backend, DType::kF32, {1, 5}, Values{0.25, 0.25, 0.25, 0.25, -2047.0});
      const Guarded residual(backend, dtype, {1, 1}, Values{2048.0});
      Guarded out(backend, dtype, {1, 1});
      backend.ops().moe_combine({.out = out, .y = from, .weights = by, .residual = residual});
      check_equal(concat("moe_combine ", dtype), out.get("out"), {2.0});
    }
  });
}

TEST_CASE("moe_combine keeps a NaN weight to its token") {
  on_every_backend([](Backend& backend) {
    for (const DType dtype : cases::kFloatTypes) {
      const Guarded from(backend, dtype, {3, 2, 2}, Values(12, 1.0));
      const Guarded by(backend, DType::kF32, {3, 2}, Values{0.5, 0.5, kNan, kNan, 0.25, 0.75});
      const Guarded residual(backend, dtype, {3, 2}, Values(6, 1.0));
      Guarded out(backend, dtype, {3, 2});
      backend.ops().moe_combine({.out = out, .y = from, .weights = by, .residual = residual});
      check_equal(concat("moe_combine ", dtype), out.get("out"), {2, 2, kNan, kNan, 2, 2});
    }
  });
}

}  // namespace
}  // namespace engine::test
