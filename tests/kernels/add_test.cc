#include "kernels/cases/cases.h"
#include "tests/support/backends.h"
#include "tests/support/closeness.h"
#include "tests/support/guarded.h"

namespace engine::test {
namespace {

// The sum in fp32, rounded once: both roundings are to nearest, so the bits are determined.
Values fp32_sum(const Values& a, const Values& b, DType dtype) {
  Values sum = reference::add(a, b);
  for (double& s : sum) s = reference::round_to(dtype, reference::round_to(DType::kF32, s));
  return sum;
}

TEST_CASE("add of every size and type is exact") {
  on_every_backend([](Backend& backend) {
    for (const cases::RowsCase& problem : cases::rows_cases()) {
      for (const DType dtype : cases::kFloatTypes) {
        const Shape shape = {problem.tokens, problem.width};
        const Values a = uniform(shape.numel(), 1, dtype, -3.0, 3.0);
        const Values b = uniform(shape.numel(), 2, dtype, -0.01, 0.01);
        for (const Layout& layout : {kDense, kOddStrides, kWideStrides}) {
          const Guarded a_tensor(backend, dtype, shape, a, layout);
          const Guarded b_tensor(backend, dtype, shape, b);
          Guarded out(backend, dtype, shape, layout);
          backend.ops().add({.out = out, .a = a_tensor, .b = b_tensor});
          const std::string what = concat("add ", problem.name(), " ", dtype);
          check_equal(what, out.get(what), fp32_sum(a, b, dtype));
        }
      }
    }
  });
}

TEST_CASE("add into either operand is the same sum") {
  on_every_backend([](Backend& backend) {
    for (const DType dtype : cases::kFloatTypes) {
      const Shape shape = {7, 43};
      const Values a = uniform(shape.numel(), 3, dtype), b = uniform(shape.numel(), 4, dtype);
      const Values expected = fp32_sum(a, b, dtype);
      for (const Layout& layout : {kDense, kOddStrides}) {
        Guarded left(backend, dtype, shape, a, layout), right(backend, dtype, shape, b);
        backend.ops().add({.out = left, .a = left, .b = right});
        check_equal("out is a", left.get("a"), expected);
        check_equal("b is left alone", right.get("b"), b);
        left.set(a);
        backend.ops().add({.out = right, .a = left, .b = right});
        check_equal("out is b", right.get("b"), expected);
        check_equal("a is left alone", left.get("a"), a);
      }
    }
  });
}

TEST_CASE("add propagates NaN and infinity, and overflows to infinity") {
  on_every_backend([](Backend& backend) {
    for (const DType dtype : cases::kFloatTypes) {
      const double greatest = dtype == DType::kF16 ? 65504.0 : 0x1.fep127;
      const Values a = {kNan, kInfinity, kInfinity, -kInfinity, greatest, 1.0, -greatest};
      const Values b = {1.0, 1.0, -kInfinity, 2.0, greatest, kNan, -greatest};
      const Guarded a_tensor(backend, dtype, {1, 7}, a), b_tensor(backend, dtype, {1, 7}, b);
      Guarded out(backend, dtype, {1, 7});
      backend.ops().add({.out = out, .a = a_tensor, .b = b_tensor});
      check_equal(concat("add ", dtype), out.get("out"),
                  {kNan, kInfinity, kNan, -kInfinity, kInfinity, kNan, -kInfinity});
    }
  });
}

}  // namespace
}  // namespace engine::test
