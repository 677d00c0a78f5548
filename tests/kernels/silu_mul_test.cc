#include "kernels/cases/cases.h"
#include "tests/support/backends.h"
#include "tests/support/bounds.h"
#include "tests/support/guarded.h"

namespace engine::test {
namespace {

// A dozen roundings in fp32 at the most, u32² ÷ 3 each (the exponential's share of the result fades
// where that is large), and the store's.
double silu_nmse(DType dtype) { return 4.0 * kFp32 * kFp32 + rounding_nmse(dtype); }

TEST_CASE("silu_mul of every size and type is within its bound") {
  on_every_backend([](Backend& backend) {
    for (const cases::RowsCase& problem : cases::rows_cases()) {
      for (const DType dtype : cases::kFloatTypes) {
        const Shape shape = {problem.tokens, problem.width};
        const Values gate = uniform(shape.numel(), 1, dtype, -8.0, 8.0);
        const Values up = uniform(shape.numel(), 2, dtype, -2.0, 2.0);
        const Bounded expected = silu_mul_bounded(exact(gate), exact(up), dtype);
        for (const Layout& layout : {kDense, kOddStrides, kWideStrides}) {
          const Guarded gate_tensor(backend, dtype, shape, gate, layout);
          const Guarded up_tensor(backend, dtype, shape, up, layout);
          Guarded out(backend, dtype, shape, layout);
          backend.ops().silu_mul({.out = out, .gate = gate_tensor, .up = up_tensor});
          const std::string what = concat("silu_mul ", problem.name(), " ", dtype);
          const Values found = out.get(what);
          check_close(what, found, expected.value, expected.error);
          check_nmse(what, found, expected.value, silu_nmse(dtype));
        }
      }
    }
  });
}

TEST_CASE("silu_mul over the halves of one tensor, in place") {
  on_every_backend([](Backend& backend) {
    for (const DType dtype : cases::kFloatTypes) {
      for (const std::int64_t width : {1, 43, 172, 256}) {
        const Shape shape = {5, 2 * width};
        const Values joined = uniform(shape.numel(), 3, dtype, -4.0, 4.0);
        const Values gate = columns(joined, 2 * width, 0, width);
        const Values up = columns(joined, 2 * width, width, width);
        Guarded tensor(backend, dtype, shape, joined);
        const Tensor left = tensor.tensor().slice(1, 0, width);
        const Tensor right = tensor.tensor().slice(1, width, width);
        backend.ops().silu_mul({.out = left, .gate = left, .up = right});
        const Bounded expected = silu_mul_bounded(exact(gate), exact(up), dtype);
        const Values found = tensor.get("joined");
        check_close("gate", columns(found, 2 * width, 0, width), expected.value, expected.error);
        check_equal("up is left alone", columns(found, 2 * width, width, width), up);

        tensor.set(joined);
        backend.ops().silu_mul({.out = right, .gate = left, .up = right});
        const Values swapped = tensor.get("joined");
        check_close("up", columns(swapped, 2 * width, width, width), expected.value,
                    expected.error);
        check_equal("gate is left alone", columns(swapped, 2 * width, 0, width), gate);
      }
    }
  });
}

TEST_CASE("silu_mul of very large and very small gates") {
  on_every_backend([](Backend& backend) {
    for (const DType dtype : cases::kFloatTypes) {
      const Values gate = {0,   -0.0, 1e-4, -1e-4, 20,   -20,  60,    -60,   -87,
                           -88, -89,  -104, 200,   -200, 1000, -1000, 60000, -60000};
      Values stored = gate, up(gate.size(), 1.0);
      for (double& g : stored) g = reference::round_to(dtype, g);
      const Shape shape = {1, static_cast<std::int64_t>(gate.size())};
      const Guarded gate_tensor(backend, dtype, shape, stored), ups(backend, dtype, shape, up);
      Guarded out(backend, dtype, shape);
      backend.ops().silu_mul({.out = out, .gate = gate_tensor, .up = ups});
      const Bounded expected = silu_mul_bounded(exact(stored), exact(up), dtype);
      check_close(concat("silu_mul ", dtype), out.get("out"), expected.value, expected.error);
    }
  });
}

TEST_CASE("silu_mul propagates NaN and infinity") {
  on_every_backend([](Backend& backend) {
    for (const DType dtype : cases::kFloatTypes) {
      const Guarded gate(backend, dtype, {1, 5}, Values{kNan, 1.0, kInfinity, kInfinity, 2.0});
      const Guarded up(backend, dtype, {1, 5}, Values{1.0, kNan, -2.0, 0.0, -kInfinity});
      Guarded out(backend, dtype, {1, 5});
      backend.ops().silu_mul({.out = out, .gate = gate, .up = up});
      check_equal(concat("silu_mul ", dtype), out.get("out"),
                  {kNan, kNan, -kInfinity, kNan, -kInfinity});
    }
  });
}

}  // namespace
}  // namespace engine::test
