// layernorm and gelu.
#include "kernels/cases/cases.h"
#include "tests/support/backends.h"
#include "tests/support/bounds.h"
#include "tests/support/guarded.h"

namespace engine::test {
namespace {

constexpr float kEps = 1e-5f;

// With m = max |x|: the mean is off by at most γ_{D+2} m, a centred value by that and 2 u32 m, so
// δ = γ_{D+4} m + 2 u32 m; the root of the variance by δ too (it is a norm of centred values) and
// relatively by γ_{D+2} ÷ 2 + 9 u32. Over the root r both errors weigh δ (1 + |n|) ÷ r, n being the
// normalised value; the weight's product and the bias cost 3 u32 of their magnitudes.
Values layernorm_error(const Values& x, const Values& weight, const Values& bias, DType dtype) {
  const Values exact_rows = reference::layernorm(x, weight, bias, static_cast<double>(kEps));
  const std::size_t width = weight.size();
  const auto n = static_cast<std::int64_t>(width);
  const Values ones(width, 1.0), zeros(width, 0.0);
  const Values normed = reference::layernorm(x, ones, zeros, static_cast<double>(kEps));
  Values error(x.size());
  for (std::size_t row = 0; row < x.size(); row += width) {
    double peak = 0.0, mean = 0.0, variance = 0.0;
    for (std::size_t i = row; i < row + width; ++i) {
      peak = std::max(peak, std::fabs(x[i]));
      mean += x[i] / static_cast<double>(width);
    }
    for (std::size_t i = row; i < row + width; ++i) {
      variance += (x[i] - mean) * (x[i] - mean) / static_cast<double>(width);
    }
    const double root = std::sqrt(variance + static_cast<double>(kEps));
    const double moved = (gamma(n + 4, kFp32) + 2.0 * kFp32) * peak / root;
    for (std::size_t i = 0; i < width; ++i) {
      const double size = std::fabs(normed[row + i]);
      const double off = moved * (1.0 + size) + (gamma(n + 2, kFp32) / 2.0 + 9.0 * kFp32) * size;
      error[row + i] = rounded(exact_rows[row + i],
                               off * std::fabs(weight[i]) +
                                   3.0 * kFp32 * (size * std::fabs(weight[i]) + std::fabs(bias[i])),
                               dtype);
    }
  }
  return error;
}

void check_layernorm(Backend& backend, const cases::RowsCase& problem, DType dtype,
                     bool f32_weights) {
  const DType stored = f32_weights ? DType::kF32 : dtype;
  const Shape shape = {problem.tokens, problem.width};
  const Values x = uniform(shape.numel(), 1, dtype, -1.0, 3.0);
  const Values weight = uniform(problem.width, 2, stored, 0.5, 1.5);
  const Values bias = uniform(problem.width, 3, stored);
  const Guarded w(backend, stored, {problem.width}, weight);
  const Guarded b(backend, stored, {problem.width}, bias);
  const Values expected = reference::layernorm(x, weight, bias, static_cast<double>(kEps));
  const Values error = layernorm_error(x, weight, bias, dtype);
  for (const Layout& layout : {kDense, kOddStrides, kWideStrides}) {
    const Guarded x_tensor(backend, dtype, shape, x, layout);
    Guarded out(backend, dtype, shape, layout);
    backend.ops().layernorm({.out = out, .x = x_tensor, .weight = w, .bias = b, .eps = kEps});
    const std::string what = concat("layernorm ", problem.name(), " ", dtype);
    check_close(what, out.get(what), expected, error);
  }
}

TEST_CASE("layernorm of every size and type is within its bound") {
  on_every_backend([](Backend& backend) {
    for (const cases::RowsCase& problem : cases::rows_cases()) {
      for (const DType dtype : cases::kFloatTypes) {
        for (const bool f32_weights : {true, false}) {
          check_layernorm(backend, problem, dtype, f32_weights);
        }
      }
    }
  });
}

TEST_CASE("layernorm of more rows than a GPU holds at once is within its bound") {
  on_every_backend([](Backend& backend) {
    for (const DType dtype : cases::kFloatTypes) check_layernorm(backend, {34000, 8}, dtype, true);
  });
}

TEST_CASE("layernorm in place gives the same bits, and keeps a NaN to its own row") {
  on_every_backend([](Backend& backend) {
    for (const DType dtype : cases::kFloatTypes) {
      for (const std::int64_t width : {172, 1024}) {
        const Shape shape = {5, width};
        Values x = uniform(shape.numel(), 3, dtype);
        x[static_cast<std::size_t>(width) + 7] = kNan;
        const Guarded w(backend, dtype, {width}, uniform(width, 4, dtype));
        const Guarded b(backend, dtype, {width}, uniform(width, 5, dtype));
        Guarded apart(backend, dtype, shape), x_tensor(backend, dtype, shape, x);
        backend.ops().layernorm({.out = apart, .x = x_tensor, .weight = w, .bias = b});
        backend.ops().layernorm({.out = x_tensor, .x = x_tensor, .weight = w, .bias = b});
        const Values found = apart.get("out");
        check_equal("layernorm in place", x_tensor.get("x"), found);
        for (std::size_t i = 0; i < found.size(); ++i) {
          CHECK(std::isnan(found[i]) == (i / static_cast<std::size_t>(width) == 1));
        }
      }
    }
  });
}

// The argument 2 z of the exponential has relative error ≤ 6 u32, which is the most, with the
// (2 |2 z| + 4) u32 of the exponential, that it adds to 1 + exp(−2 z); the quotient costs 6 u32
// more (see silu_mul_bounded). Below z = −43 the exponential may overflow and give zero for what is
// at most 2^-118.
TEST_CASE("gelu of every size and type is within its bound") {
  on_every_backend([](Backend& backend) {
    for (const cases::RowsCase& problem : cases::rows_cases()) {
      for (const DType dtype : cases::kFloatTypes) {
        const Shape shape = {problem.tokens, problem.width};
        const Values x = uniform(shape.numel(), 1, dtype, -6.0, 6.0);
        const Values expected = reference::gelu(x);
        Values error(x.size());
        for (std::size_t i = 0; i < x.size(); ++i) {
          const double twice_z = 1.6 * std::fabs(x[i] + 0.044715 * x[i] * x[i] * x[i]);
          // The exact value may cancel in the oracle's 1 + tanh z; 2^-50 of x covers that.
          error[i] = rounded(expected[i],
                             (8.0 * twice_z + 10.0) * kFp32 * std::fabs(expected[i]) +
                                 (0x1p-118 + 0x1p-50) * std::fabs(x[i]),
                             dtype);
        }
        for (const Layout& layout : {kDense, kOddStrides, kWideStrides}) {
          const Guarded x_tensor(backend, dtype, shape, x, layout);
          Guarded out(backend, dtype, shape, layout);
          backend.ops().gelu({.out = out, .x = x_tensor});
          const std::string what = concat("gelu ", problem.name(), " ", dtype);
          check_close(what, out.get(what), expected, error);
        }
      }
    }
  });
}

}  // namespace
}  // namespace engine::test
