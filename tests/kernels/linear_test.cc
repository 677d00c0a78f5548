#include <algorithm>

#include "kernels/cases/cases.h"
#include "tests/support/backends.h"
#include "tests/support/bounds.h"
#include "tests/support/guarded.h"
#include "tests/support/weights.h"

namespace engine::test {
namespace {

// The output channels that the oracle computes: all of a small weight; of a large one the first and
// last, both sides of some tile edges, and a seeded sample.
std::vector<std::int64_t> channels_to_check(std::int64_t outputs, std::int64_t cost_of_one) {
  std::vector<std::int64_t> channels;
  if (outputs * cost_of_one <= 40'000'000) {
    for (std::int64_t n = 0; n < outputs; ++n) channels.push_back(n);
    return channels;
  }
  for (const std::int64_t n : {0, 1, 15, 16, 63, 64, 127, 128, 255, 256}) channels.push_back(n);
  Random random(99);
  while (channels.size() < 30) channels.push_back(random.below(outputs));
  channels.push_back(outputs - 2);
  channels.push_back(outputs - 1);
  std::sort(channels.begin(), channels.end());
  channels.erase(std::unique(channels.begin(), channels.end()), channels.end());
  return channels;
}

// Columns `chosen` of a (rows, width) matrix; empty of an empty one.
Values pick(const Values& matrix, std::int64_t width, const std::vector<std::int64_t>& chosen) {
  Values out;
  for (std::size_t row = 0; row < matrix.size(); row += static_cast<std::size_t>(width)) {
    for (const std::int64_t n : chosen) out.push_back(matrix[row + static_cast<std::size_t>(n)]);
  }
  return out;
}

struct Variant {
  bool f32_out, residual, in_place;
  Layout layout;
};

class LinearFixture {
 public:
  LinearFixture(Backend& backend, const cases::LinearCase& problem, DType dtype, QuantFormat format)
      : backend_(backend),
        problem_(problem),
        dtype_(dtype),
        format_(format),
        matrix_(random_matrix(dtype, problem.outputs, problem.inputs, 21)),
        weight_(backend, {matrix_}, format),
        x_(uniform(problem.tokens * problem.inputs, 22, dtype)),
        channels_(channels_to_check(problem.outputs, problem.tokens * problem.inputs)) {
    for (const std::int64_t n : channels_) matrix_.append_row(n, rows_);
    if (format == QuantFormat::kInt8) {
      rows_ = reference::int8_quantise(rows_, problem.inputs).decoded;
    }
    bare_ = linear_bounded(exact(x_), rows_, {}, problem.inputs, dtype, DType::kF32);
  }

  void check(const Variant& variant) const {
    const DType out_type = variant.f32_out ? DType::kF32 : dtype_;
    const Shape shape = {problem_.tokens, problem_.outputs};
    const Values residual =
        variant.residual ? uniform(shape.numel(), 23, out_type, -4.0, 4.0) : Values{};
    const Guarded x(backend_, dtype_, {problem_.tokens, problem_.inputs}, x_, variant.layout);
    Guarded out(backend_, out_type, shape, variant.layout);
    Guarded added(backend_, out_type, variant.residual && !variant.in_place ? shape : Shape{0, 0});
    if (variant.residual) (variant.in_place ? out : added).set(residual);
    Tensor residual_tensor;
    if (variant.residual) residual_tensor = variant.in_place ? out.tensor() : added.tensor();
    const LinearCall call{.out = out, .x = x, .weight = weight_, .residual = residual_tensor};
    run_linear(backend_, call);

    const std::string what =
        concat("linear ", problem_.name(), " ", dtype_, " by ", format_info(format_).name, " to ",
               out_type, variant.residual ? variant.in_place ? " + out" : " + residual" : "",
               variant.layout.offset > 0 ? " strided" : "");
    const Values all = out.get(what);
    const Values found = pick(all, problem_.outputs, channels_);
    const Bounded expected = bounded(pick(residual, problem_.outputs, channels_), out_type);
    check_close(what, found, expected.value, expected.error);
    check_nmse(what, found, expected.value,
               accumulation_nmse(problem_.inputs, dtype_) + rounding_nmse(out_type));
    CHECK_MESSAGE(std::all_of(all.begin(), all.end(), [](double y) { return std::isfinite(y); }),
                  what, ": an element was not written");
  }

 private:
  // linear_bounded with a residual and another output type, from the bound without: the residual is
  // one more term of the sum.
  Bounded bounded(const Values& residual, DType out_type) const {
    Bounded out = bare_;
    const double growth = gamma(problem_.inputs + 2, accumulator_roundoff(dtype_));
    for (std::size_t i = 0; i < out.value.size(); ++i) {
      double error = out.error[i];
      if (!residual.empty()) {
        out.value[i] += residual[i];
        error += growth * std::fabs(residual[i]);
      }
      out.error[i] = rounded(out.value[i], error, out_type);
    }
    return out;
  }

  Backend& backend_;
  cases::LinearCase problem_;
  DType dtype_;
  QuantFormat format_;
  HostMatrix matrix_;
  UploadedWeight weight_;
  Values x_;
  std::vector<std::int64_t> channels_;
  Values rows_;  // the rows of the weight that are checked
  Bounded bare_;
};

TEST_CASE("linear of every size and type is within its bound") {
  on_every_backend([](Backend& backend) {
    for (const cases::LinearCase& problem : cases_for(backend, cases::linear_cases())) {
      for (const DType dtype : cases::kFloatTypes) {
        if (!runs_in(backend, problem, dtype)) continue;
        const LinearFixture fixture(backend, problem, dtype, plain_format(dtype));
        fixture.check({false, false, false, kDense});
        fixture.check({false, true, true, kDense});
        if (problem.large) continue;
        fixture.check({true, false, false, kDense});
        fixture.check({false, true, false, kDense});
        fixture.check({true, true, true, kDense});
        fixture.check({false, true, true, kOddStrides});
        fixture.check({true, true, false, kOddStrides});
        fixture.check({false, false, false, kWideStrides});
      }
    }
  });
}

TEST_CASE("linear of int8 weights of every size and type is within its bound") {
  on_every_backend([](Backend& backend) {
    for (const cases::LinearCase& problem : cases_for(backend, cases::linear_cases())) {
      for (const DType dtype : cases::kFloatTypes) {
        if (!runs_in(backend, problem, dtype)) continue;
        const LinearFixture fixture(backend, problem, dtype, QuantFormat::kInt8);
        fixture.check({false, false, false, kDense});
        fixture.check({true, true, true, kDense});
        if (problem.large) continue;
        fixture.check({false, true, false, kOddStrides});
        fixture.check({true, false, false, kWideStrides});
      }
    }
  });
}

TEST_CASE("linear of integers that int8 holds is exact") {
  // A row whose greatest weight is 127.5 has the scale 1; that weight itself becomes −128 or 127.
  on_every_backend([](Backend& backend) {
    for (const DType dtype : cases::kFloatTypes) {
      for (const std::int64_t tokens : {1, 2, 3, 5, 7, 8, 16, 33}) {
        const std::int64_t outputs = 67, inputs = 1043;
        Random random(32);
        Values x, w, held;
        for (std::int64_t i = 0; i < tokens * inputs; ++i) {
          x.push_back(static_cast<double>(random.below(7) - 3));
        }
        for (std::int64_t i = 0; i < outputs * inputs; ++i) {
          const auto value = static_cast<double>(random.below(253) - 126);
          w.push_back(i % inputs == i / inputs ? i % 2 == 0 ? -127.5 : 127.5 : value);
          held.push_back(i % inputs == i / inputs ? i % 2 == 0 ? -128.0 : 127.0 : value);
        }
        const UploadedWeight weight(backend, {matrix_of(dtype, outputs, inputs, w)},
                                    QuantFormat::kInt8);
        const Guarded x_tensor(backend, dtype, {tokens, inputs}, x);
        Guarded out(backend, DType::kF32, {tokens, outputs});
        run_linear(backend, {.out = out, .x = x_tensor, .weight = weight, .residual = {}});
        check_equal(concat("linear ", dtype, " T", tokens), out.get("out"),
                    reference::linear(x, held, {}, inputs));
      }
    }
  });
}

TEST_CASE("linear of integers is exact") {
  // Small integers: every product and partial sum is a float, so any order gives the same bits.
  on_every_backend([](Backend& backend) {
    for (const DType dtype : cases::kFloatTypes) {
      for (const std::int64_t tokens : {1, 2, 5, 16, 33}) {
        const std::int64_t outputs = 67, inputs = 131;
        Random random(31);
        Values x, w;
        for (std::int64_t i = 0; i < tokens * inputs; ++i) {
          x.push_back(static_cast<double>(random.below(7) - 3));
        }
        for (std::int64_t i = 0; i < outputs * inputs; ++i) {
          w.push_back(static_cast<double>(random.below(5) - 2));
        }
        const UploadedWeight weight(backend, matrix_of(dtype, outputs, inputs, w));
        const Guarded x_tensor(backend, dtype, {tokens, inputs}, x);
        Guarded out(backend, DType::kF32, {tokens, outputs});
        run_linear(backend, {.out = out, .x = x_tensor, .weight = weight, .residual = {}});
        check_equal(concat("linear ", dtype, " T", tokens), out.get("out"),
                    reference::linear(x, w, {}, inputs));
      }
    }
  });
}

TEST_CASE("linear by the identity returns its input") {
  // Any layout that a backend repacks weights into shows here element by element.
  on_every_backend([](Backend& backend) {
    for (const DType dtype : cases::kFloatTypes) {
      for (const std::int64_t width : {8, 43, 172, 256}) {
        Values identity(static_cast<std::size_t>(width * width), 0.0);
        for (std::int64_t i = 0; i < width; ++i) {
          identity[static_cast<std::size_t>(i * width + i)] = 1.0;
        }
        const UploadedWeight weight(backend, matrix_of(dtype, width, width, identity));
        for (const std::int64_t tokens : {1, 3, 64}) {
          const Values x = uniform(tokens * width, 41, dtype);
          const Guarded x_tensor(backend, dtype, {tokens, width}, x);
          Guarded out(backend, dtype, {tokens, width});
          run_linear(backend, {.out = out, .x = x_tensor, .weight = weight, .residual = {}});
          check_equal(concat("linear ", dtype, " D", width), out.get("out"), x);
        }
      }
    }
  });
}

TEST_CASE("linear accumulates in fp32 and rounds once") {
  // 2^12 ones, then −2^12 + 0.25 in two terms: partial sums past 2^11 would lose the quarter, and
  // later ones, in f16 or bf16.
  on_every_backend([](Backend& backend) {
    for (const DType dtype : cases::kFloatTypes) {
      const std::int64_t inputs = 4098;
      Values x(static_cast<std::size_t>(inputs), 1.0), w(static_cast<std::size_t>(inputs), 1.0);
      w[4096] = -4096.0;
      w[4097] = 0.25;
      const UploadedWeight weight(backend, matrix_of(dtype, 1, inputs, w));
      for (const std::int64_t tokens : {1, 20}) {
        Values rows;
        for (std::int64_t t = 0; t < tokens; ++t) rows.insert(rows.end(), x.begin(), x.end());
        const Guarded x_tensor(backend, dtype, {tokens, inputs}, rows);
        Guarded out(backend, dtype, {tokens, 1});
        run_linear(backend, {.out = out, .x = x_tensor, .weight = weight, .residual = {}});
        check_equal(concat("linear ", dtype), out.get("out"),
                    Values(static_cast<std::size_t>(tokens), 0.25));
      }
    }
  });
}

TEST_CASE("linear keeps a NaN to its token, an infinity to its channel") {
  on_every_backend([](Backend& backend) {
    for (const DType dtype : cases::kFloatTypes) {
      const std::int64_t tokens = 5, outputs = 19, inputs = 43;
      Values x = uniform(tokens * inputs, 51, dtype, 0.5, 1.0);
      Values w = uniform(outputs * inputs, 52, dtype, 0.5, 1.0);
      x[2 * 43 + 42] = kNan;
      w[7 * 43] = kInfinity;
      const UploadedWeight weight(backend, matrix_of(dtype, outputs, inputs, w));
      const Guarded x_tensor(backend, dtype, {tokens, inputs}, x, kOddStrides);
      Guarded out(backend, dtype, {tokens, outputs}, kOddStrides);
      run_linear(backend, {.out = out, .x = x_tensor, .weight = weight, .residual = {}});
      const Bounded expected = linear_bounded(exact(x), w, {}, inputs, dtype, dtype);
      check_close(concat("linear ", dtype), out.get("out"), expected.value, expected.error);
    }
  });
}

TEST_CASE("linear saturates f16 outputs to infinity") {
  on_every_backend([](Backend& backend) {
    const Values x(4, 200.0);
    const UploadedWeight weight(
        backend, matrix_of(DType::kF16, 2, 4, {100, 100, 100, 100, -100, -100, -100, -100}));
    const Guarded x_tensor(backend, DType::kF16, {1, 4}, x);
    Guarded half(backend, DType::kF16, {1, 2}), full(backend, DType::kF32, {1, 2});
    run_linear(backend, {.out = half, .x = x_tensor, .weight = weight, .residual = {}});
    run_linear(backend, {.out = full, .x = x_tensor, .weight = weight, .residual = {}});
    check_equal("f16", half.get("out"), {kInfinity, -kInfinity});
    check_equal("f32", full.get("out"), {80000, -80000});
  });
}

TEST_CASE("linear of weights stored in another type than the activations") {
  on_every_backend([](Backend& backend) {
    for (const DType stored : cases::kFloatTypes) {
      for (const DType dtype : cases::kFloatTypes) {
        if (stored == dtype) continue;
        const std::int64_t outputs = 65, inputs = 172;
        const HostMatrix matrix = random_matrix(stored, outputs, inputs, 71);
        const UploadedWeight weight(backend, matrix);
        for (const std::int64_t tokens : {1, 7, 64}) {
          const Values x = uniform(tokens * inputs, 72, dtype);
          const Guarded x_tensor(backend, dtype, {tokens, inputs}, x);
          Guarded out(backend, DType::kF32, {tokens, outputs});
          run_linear(backend, {.out = out, .x = x_tensor, .weight = weight, .residual = {}});
          // Nothing narrower than fp32 may come between: fp32's own bound, whatever the types.
          const Bounded expected =
              linear_bounded(exact(x), matrix.values(), {}, inputs, DType::kF32, DType::kF32);
          const std::string what = concat("linear ", stored, " by ", dtype);
          check_close(what, out.get(what), expected.value, expected.error);
        }
      }
    }
  });
}

TEST_CASE("linear over joined weights stacks their channels") {
  on_every_backend([](Backend& backend) {
    for (const DType dtype : cases::kFloatTypes) {
      const HostMatrix q = random_matrix(dtype, 16, 43, 61), k = random_matrix(dtype, 5, 43, 62);
      const HostMatrix v = random_matrix(dtype, 7, 43, 63);
      const UploadedWeight joined(backend, {q, k, v}, plain_format(dtype));
      CHECK(joined.weight().rows == 28);
      CHECK(joined.weight().columns == 43);
      const Values x = uniform(3 * 43, 64, dtype);
      const Guarded x_tensor(backend, dtype, {3, 43}, x);
      Guarded out(backend, dtype, {3, 28});
      run_linear(backend, {.out = out, .x = x_tensor, .weight = joined, .residual = {}});
      Values w = q.values();
      for (const HostMatrix& part : {k, v}) {
        for (const double value : part.values()) w.push_back(value);
      }
      const Bounded expected = linear_bounded(exact(x), w, {}, 43, dtype, dtype);
      check_close(concat("linear ", dtype), out.get("out"), expected.value, expected.error);
    }
  });
}

}  // namespace
}  // namespace engine::test
