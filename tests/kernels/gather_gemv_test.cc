// gather_gemv, linear with a bias, and the MLP made of them.
#include "kernels/core/check.h"
#include "tests/support/backends.h"
#include "tests/support/bounds.h"
#include "tests/support/guarded.h"
#include "tests/support/weights.h"

namespace engine::test {
namespace {

struct Problem {
  std::int64_t experts, outputs, inputs;
  std::vector<double> chosen;  // empty: every matrix in its order
};

// Bytes as they are, without scales; q in [−128, 127].
Buffer raw_int8(Backend& backend, const Values& q) {
  std::vector<std::int8_t> bytes;
  for (const double value : q) bytes.push_back(static_cast<std::int8_t>(value));
  Buffer memory = backend.allocate(bytes.size());
  backend.write(memory.tensor(DType::kU8, {static_cast<std::int64_t>(bytes.size())}), bytes.data());
  return memory;
}

void check_gather(Backend& backend, const Problem& problem, DType dtype, bool int8) {
  const std::int64_t rows = problem.experts * problem.outputs;
  const HostMatrix matrix = random_matrix(dtype, rows, problem.inputs, 5);
  Values values = matrix.values();
  const UploadedWeight uploaded(backend, matrix);
  Weight weight = uploaded;
  Buffer memory;
  if (int8) {
    Random random(6);
    for (double& value : values) value = static_cast<double>(random.below(256)) - 128.0;
    memory = raw_int8(backend, values);
    weight = {.data = memory.data(),
              .format = QuantFormat::kInt8,
              .rows = rows,
              .columns = problem.inputs,
              .device = backend.device()};
  }
  const bool gathers = !problem.chosen.empty();
  std::vector<std::int32_t> ids;
  for (const double id : problem.chosen) ids.push_back(static_cast<std::int32_t>(id));
  for (std::int32_t e = 0; !gathers && e < problem.experts; ++e) ids.push_back(e);
  const auto slots = static_cast<std::int64_t>(ids.size());
  const Values x = uniform(problem.inputs, 7, dtype);
  const Guarded x_tensor(backend, dtype, {problem.inputs}, x);
  const Guarded chosen(backend, DType::kI32, {slots}, Values(ids.begin(), ids.end()));
  Guarded out(backend, dtype, {slots, problem.outputs});
  backend.ops().gather_gemv({.out = out,
                             .x = x_tensor,
                             .weight = weight,
                             .experts = gathers ? chosen.tensor() : Tensor{},
                             .count = problem.experts});
  const std::string what = concat("gather_gemv E", problem.experts, " N", problem.outputs, " K",
                                  problem.inputs, " ", dtype, int8 ? " int8" : "");
  Bounded expected;
  const auto size = problem.outputs * problem.inputs;
  for (const std::int32_t e : ids) {
    const Values part(values.begin() + e * size, values.begin() + (e + 1) * size);
    const Bounded row = linear_bounded(exact(x), part, {}, problem.inputs, dtype, dtype);
    expected.value.insert(expected.value.end(), row.value.begin(), row.value.end());
    expected.error.insert(expected.error.end(), row.error.begin(), row.error.end());
  }
  const Values oracle = reference::gather_gemv(x, values, ids, problem.experts);
  check_equal(what + ": the oracle", oracle, expected.value);
  check_close(what, out.get(what), expected.value, expected.error);
}

TEST_CASE("gather_gemv of every size and type is within its bound") {
  const std::vector<Problem> problems = {
      {1, 1, 1, {}},          {1, 5, 7, {}},       {3, 7, 43, {2, 0}},      {8, 16, 64, {3, 5}},
      {8, 33, 1024, {3, 5}},  {2, 129, 2064, {}},  {4, 9, 4112, {1, 1, 3}}, {1, 1000, 256, {}},
      {8, 64, 2048, {7}},     {1, 3, 16384, {}},   {1, 2, 40000, {}},       {1, 2200, 1040, {}},
      {3, 300, 4096, {2, 0}}, {1, 1100, 8208, {}}, {3, 90, 16384, {2, 0}}};
  on_every_backend([&](Backend& backend) {
    for (const Problem& problem : problems) {
      for (const DType dtype : {DType::kF32, DType::kF16, DType::kBF16}) {
        for (const bool int8 : {false, true}) check_gather(backend, problem, dtype, int8);
      }
    }
  });
}

TEST_CASE("gather_gemv says which expert is out of range, or gives its row as NaN") {
  on_every_backend([](Backend& backend) {
    const DType dtype = DType::kBF16;
    for (const std::int64_t inputs : {43, 64, 1024, 4096}) {
      const UploadedWeight weight(backend, random_matrix(dtype, 2 * 9, inputs, 5));
      const Guarded x(backend, dtype, {inputs}, uniform(inputs, 7, dtype));
      const Guarded chosen(backend, DType::kI32, {3}, Values{1, 2, -1});
      Guarded out(backend, dtype, {3, 9});
      const GatherGemvCall call{
          .out = out, .x = x, .weight = weight, .experts = chosen, .count = 2};
      if (backend.device().kind == DeviceKind::kCpu) {
        CHECK_THROWS_WITH_AS(backend.ops().gather_gemv(call), "gather_gemv: expert 2 of 2", Error);
        continue;
      }
      backend.ops().gather_gemv(call);
      const Values found = out.get("out");
      for (std::size_t i = 0; i < found.size(); ++i) CHECK(std::isnan(found[i]) == (i >= 9));
    }
  });
}

TEST_CASE("linear adds a bias to every token, whichever kernel serves it") {
  on_every_backend([](Backend& backend) {
    for (const DType dtype : {DType::kF32, DType::kF16, DType::kBF16}) {
      for (const QuantFormat format : {plain_format(dtype), QuantFormat::kInt8}) {
        for (const std::int64_t tokens : {1, 2, 5, 33, 300}) {
          for (const std::int64_t inputs : {43, 128}) {
            const std::int64_t outputs = 72;
            const HostMatrix matrix = random_matrix(dtype, outputs, inputs, 5);
            const UploadedWeight weight(backend, {matrix}, format);
            const Values x = uniform(tokens * inputs, 7, dtype), bias = uniform(outputs, 8, dtype);
            const Guarded x_tensor(backend, dtype, {tokens, inputs}, x);
            const Guarded bias_tensor(backend, dtype, {outputs}, bias);
            Guarded out(backend, dtype, {tokens, outputs});
            run_linear(
                backend,
                {.out = out, .x = x_tensor, .weight = weight, .residual = {}, .bias = bias_tensor});
            Values rows;
            for (std::int64_t t = 0; t < tokens; ++t) {
              rows.insert(rows.end(), bias.begin(), bias.end());
            }
            const Bounded expected =
                linear_bounded(exact(x), decoded(matrix, format), rows, inputs, dtype, dtype);
            const std::string what = concat("linear + bias T", tokens, " K", inputs, " ", dtype);
            check_close(what, out.get(what), expected.value, expected.error);
          }
        }
      }
    }
  });
}

// Every stage stores its result: at most five roundings in a row, each of energy u² ÷ 3 of what it
// rounds, and a layer norm keeps the energy of a row's deviations; u² each leaves room for few
// samples. f32 adds its accumulation.
void check_mlp(Backend& backend, DType dtype, std::int64_t tokens, std::int64_t width,
               std::int64_t inner, bool gelu, DType norm) {
  const HostMatrix up = scaled_matrix(dtype, inner, width, 1);
  const HostMatrix down = scaled_matrix(dtype, width, inner, 2);
  const UploadedWeight up_weight(backend, up), down_weight(backend, down);
  const Values x = uniform(tokens * width, 3, dtype);
  const Values b1 = uniform(inner, 4, dtype), b2 = uniform(width, 5, dtype);
  const Values g1 = uniform(inner, 6, norm, 0.5, 1.5), c1 = uniform(inner, 7, norm);
  const Values g2 = uniform(width, 8, norm, 0.5, 1.5), c2 = uniform(width, 9, norm);
  const Guarded x_tensor(backend, dtype, {tokens, width}, x);
  const Guarded b1t(backend, dtype, {inner}, b1), b2t(backend, dtype, {width}, b2);
  const Guarded g1t(backend, norm, {inner}, g1), c1t(backend, norm, {inner}, c1);
  const Guarded g2t(backend, norm, {width}, g2), c2t(backend, norm, {width}, c2);
  Guarded out(backend, dtype, {tokens, width});
  const MlpLayerNormCall call{.out = out,
                              .x = x_tensor,
                              .up = up_weight,
                              .up_bias = b1t,
                              .inner_weight = g1t,
                              .inner_bias = c1t,
                              .down = down_weight,
                              .down_bias = b2t,
                              .outer_weight = g2t,
                              .outer_bias = c2t,
                              .gelu = gelu};
  GuardedWorkspace scratch(backend, [&](Ops& ops, Workspace ws) { ops.mlp_layer_norm(call, ws); });
  backend.ops().mlp_layer_norm(call, scratch.workspace());
  scratch.check("scratch");
  const Values up_values = up.values(), down_values = down.values();
  const Values expected = reference::mlp_layer_norm(x, {.up = up_values,
                                                        .up_bias = b1,
                                                        .inner_weight = g1,
                                                        .inner_bias = c1,
                                                        .down = down_values,
                                                        .down_bias = b2,
                                                        .outer_weight = g2,
                                                        .outer_bias = c2,
                                                        .gelu = gelu});
  const std::string what = concat("mlp T", tokens, " D", width, " inner ", inner, " ", dtype,
                                  gelu ? " gelu" : "", " norm ", norm);
  const Values found = out.get(what);
  CHECK_MESSAGE(std::isfinite(nmse(found, expected)), what);
  for (const double y : found) REQUIRE_MESSAGE(std::isfinite(y), what);
  check_nmse(
      what, found, expected,
      5.0 * rounding_nmse(dtype) + 2.0 * accumulation_nmse(inner, dtype) + 16.0 * kFp32 * kFp32);
}

TEST_CASE("mlp_layer_norm of one and of many tokens is what its stages give") {
  on_every_backend([](Backend& backend) {
    for (const DType dtype : {DType::kF32, DType::kF16, DType::kBF16}) {
      for (const bool gelu : {false, true}) {
        for (const std::int64_t tokens : {1, 3, 64}) {
          for (const std::int64_t width : {172, 256}) {
            check_mlp(backend, dtype, tokens, width, 2 * width + 16, gelu, dtype);
          }
        }
        // Rows of several slices, a whole and a cut last one; parameters of either type.
        for (const DType norm : {dtype, DType::kF32}) {
          check_mlp(backend, dtype, 1, 1040, 2096, gelu, norm);
          check_mlp(backend, dtype, 1, 264, 14336, gelu, norm);
          check_mlp(backend, dtype, 1, 72, 1024, gelu, norm);
        }
      }
    }
  });
}

}  // namespace
}  // namespace engine::test
