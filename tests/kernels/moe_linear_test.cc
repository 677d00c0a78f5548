#include <algorithm>

#include "tests/support/backends.h"
#include "tests/support/bounds.h"
#include "tests/support/experts.h"
#include "tests/support/guarded.h"

namespace engine::test {
namespace {

Values as_values(const std::vector<std::int32_t>& ids) { return {ids.begin(), ids.end()}; }

// Runs the call with exactly the scratch that it asks for, between guards.
void run(Backend& backend, const MoeLinearCall& call, const std::string& what) {
  GuardedWorkspace scratch(backend, [&](Ops& ops, Workspace ws) { ops.moe_linear(call, ws); });
  backend.ops().moe_linear(call, scratch.workspace());
  scratch.check(what + ": scratch");
}

struct Side {
  std::int64_t outputs, inputs;
  bool shared;  // the experts of a token share its row of x
};

void check(Backend& backend, const cases::MoeCase& c, const Side& side, DType dtype,
           QuantFormat format, const std::vector<std::int32_t>& chosen) {
  const std::string what = concat("moe_linear ", c.name(), " N", side.outputs, " ", dtype, " by ",
                                  format_info(format).name, side.shared ? " shared" : "");
  const std::vector<HostMatrix> matrices =
      expert_matrices(dtype, c.experts, side.outputs, side.inputs, 5);
  const UploadedWeight weight(backend, matrices, format);
  const std::int64_t per_token = side.shared ? 1 : c.top_k;
  const Values x = uniform(c.tokens * per_token * side.inputs, 7, dtype);
  const Bounded expected = moe_linear_bounded(exact(x), decoded(matrices, format), chosen,
                                              side.shared ? c.top_k : 1, side.inputs, dtype);
  Values flat;
  for (const Values& values : decoded(matrices, format)) {
    flat.insert(flat.end(), values.begin(), values.end());
  }
  check_close("bounds against oracle", expected.value,
              reference::moe_linear(x, flat, chosen, c.top_k, c.experts, side.inputs),
              Values(expected.value.size(), 1e-12));
  for (const Layout& layout : {kDense, kOddStrides}) {
    const Guarded from(backend, dtype, {c.tokens, per_token, side.inputs}, x, layout);
    const Guarded ids(backend, DType::kI32, {c.tokens, c.top_k}, as_values(chosen), layout);
    Guarded out(backend, dtype, {c.tokens, c.top_k, side.outputs}, layout);
    run(backend, {.out = out, .x = from, .weight = weight, .experts = ids, .count = c.experts},
        what);
    const Values found = out.get(what);
    check_close(what, found, expected.value, expected.error);
    check_nmse(what, found, expected.value,
               accumulation_nmse(side.inputs, dtype) + rounding_nmse(dtype));
  }
}

// Of the largest problems the oracle computes some channels of some rows.
void check_large(Backend& backend, const cases::MoeCase& c, const Side& side, QuantFormat format) {
  const DType dtype = DType::kBF16;
  const std::string what = concat("moe_linear ", c.name(), " N", side.outputs, " ", dtype, " by ",
                                  format_info(format).name);
  const std::vector<HostMatrix> matrices =
      expert_matrices(dtype, c.experts, side.outputs, side.inputs, 5);
  const UploadedWeight weight(backend, matrices, format);
  const std::vector<std::int32_t> chosen = choose_experts(c, 6);
  const std::int64_t per_token = side.shared ? 1 : c.top_k;
  const Values x = uniform(c.tokens * per_token * side.inputs, 7, dtype);
  const Guarded from(backend, dtype, {c.tokens, per_token, side.inputs}, x);
  const Guarded ids(backend, DType::kI32, {c.tokens, c.top_k}, as_values(chosen));
  Guarded out(backend, dtype, {c.tokens, c.top_k, side.outputs});
  run(backend, {.out = out, .x = from, .weight = weight, .experts = ids, .count = c.experts}, what);
  const Values found = out.get(what);
  CHECK_MESSAGE(std::all_of(found.begin(), found.end(), [](double y) { return std::isfinite(y); }),
                what, ": an element was not written");
  Values picked;
  Bounded expected;
  Random random(8);
  for (std::size_t row = 0; row < chosen.size(); row += row < 8 ? 1 : 7) {
    const std::int64_t x_row = static_cast<std::int64_t>(row) / (side.shared ? c.top_k : 1);
    const Values input(x.begin() + x_row * side.inputs, x.begin() + (x_row + 1) * side.inputs);
    Values rows;
    for (int i = 0; i < 24; ++i) {
      const std::int64_t n = i == 0 ? 0 : i == 1 ? side.outputs - 1 : random.below(side.outputs);
      HostMatrix one = matrices[static_cast<std::size_t>(chosen[row])];
      one.bytes = std::make_shared<std::vector<std::byte>>(
          one.bytes->begin() + n * static_cast<std::int64_t>(one.row_bytes()),
          one.bytes->begin() + (n + 1) * static_cast<std::int64_t>(one.row_bytes()));
      one.rows = 1;
      const Values values = decoded(one, format);
      rows.insert(rows.end(), values.begin(), values.end());
      picked.push_back(
          found[row * static_cast<std::size_t>(side.outputs) + static_cast<std::size_t>(n)]);
    }
    const Bounded bounds = linear_bounded(exact(input), rows, {}, side.inputs, dtype, dtype);
    expected.value.insert(expected.value.end(), bounds.value.begin(), bounds.value.end());
    expected.error.insert(expected.error.end(), bounds.error.begin(), bounds.error.end());
  }
  check_close(what, picked, expected.value, expected.error);
  check_nmse(what, picked, expected.value,
             accumulation_nmse(side.inputs, dtype) + rounding_nmse(dtype));
}

void check_cases(bool int8) {
  on_every_backend([&](Backend& backend) {
    for (const cases::MoeCase& c : cases_for(backend, cases::moe_cases())) {
      const Side up = {2 * c.inner, c.width, true}, down = {c.width, c.inner, false};
      if (c.large) {
        const QuantFormat format = int8 ? QuantFormat::kInt8 : QuantFormat::kBF16;
        check_large(backend, c, {c.inner, c.width, true}, format);  // half of up: 1 GB of bf16
        check_large(backend, c, down, format);
        continue;
      }
      for (const DType dtype : cases::kFloatTypes) {
        const QuantFormat format = int8 ? QuantFormat::kInt8 : plain_format(dtype);
        const std::vector<std::int32_t> chosen = choose_experts(c, 6);
        check(backend, c, up, dtype, format, chosen);
        check(backend, c, down, dtype, format, chosen);
      }
    }
  });
}

TEST_CASE("moe_linear of every size and type is within its bound") { check_cases(false); }

TEST_CASE("moe_linear of int8 weights of every size and type is within its bound") {
  check_cases(true);
}

TEST_CASE("moe_linear of an expert with many rows beside some with few") {
  const cases::MoeCase c = {.tokens = 72, .experts = 4, .top_k = 1, .width = 43, .inner = 151};
  std::vector<std::int32_t> chosen(72, 1);
  for (std::size_t t = 0; t < chosen.size(); t += 4) chosen[t] = t % 12 == 0 ? 3 : 0;
  chosen[5] = 2;
  on_every_backend([&](Backend& backend) {
    for (const DType dtype : cases::kFloatTypes) {
      for (const QuantFormat format : {plain_format(dtype), QuantFormat::kInt8}) {
        check(backend, c, {2 * c.inner, c.width, true}, dtype, format, chosen);
        check(backend, c, {c.width, c.inner, false}, dtype, format, chosen);
      }
    }
  });
}

TEST_CASE("moe_linear over identities tells experts, tokens and rows apart") {
  // Expert e is (e + 1) times the identity, so that an element shows where it came from; integers
  // below 128 are exact in every format.
  on_every_backend([](Backend& backend) {
    const std::int64_t experts = 5, top_k = 3, width = 43;
    for (const DType dtype : cases::kFloatTypes) {
      std::vector<HostMatrix> matrices;
      for (std::int64_t e = 0; e < experts; ++e) {
        Values identity(static_cast<std::size_t>(width * width), 0.0);
        for (std::int64_t i = 0; i < width; ++i) {
          identity[static_cast<std::size_t>(i * width + i)] = static_cast<double>(e + 1);
        }
        matrices.push_back(matrix_of(dtype, width, width, identity));
      }
      const UploadedWeight weight(backend, matrices, plain_format(dtype));
      for (const std::int64_t tokens : {1, 2, 7, 64, 300}) {
        for (const bool same : {false, true}) {
          const std::vector<std::int32_t> chosen =
              choose_experts({tokens, experts, top_k, width, width, same}, 9);
          Values x;
          for (std::int64_t i = 0; i < tokens * top_k * width; ++i) {
            x.push_back(static_cast<double>((i * 7 + i / width) % 50));
          }
          const Guarded from(backend, dtype, {tokens, top_k, width}, x);
          const Guarded ids(backend, DType::kI32, {tokens, top_k}, as_values(chosen));
          Guarded out(backend, dtype, {tokens, top_k, width});
          run(backend, {.out = out, .x = from, .weight = weight, .experts = ids, .count = experts},
              "moe_linear identity");
          for (std::size_t i = 0; i < x.size(); ++i) {
            x[i] *= chosen[i / static_cast<std::size_t>(width)] + 1;
          }
          check_equal(concat("moe_linear ", dtype, " T", tokens), out.get("out"), x);
        }
      }
    }
  });
}

TEST_CASE("moe_linear where every slot of a token names the same expert") {
  // No router does so, but the op allows it: nothing may assume that a token's experts differ.
  on_every_backend([](Backend& backend) {
    const std::vector<HostMatrix> matrices = expert_matrices(DType::kF32, 3, 19, 43, 11);
    const UploadedWeight weight(backend, matrices, QuantFormat::kF32);
    const std::vector<std::int32_t> chosen = {2, 2, 2, 0, 0, 0};
    const Values x = uniform(2 * 3 * 43, 12, DType::kF32);
    const Guarded from(backend, DType::kF32, {2, 3, 43}, x);
    const Guarded ids(backend, DType::kI32, {2, 3}, as_values(chosen));
    Guarded out(backend, DType::kF32, {2, 3, 19});
    run(backend, {.out = out, .x = from, .weight = weight, .experts = ids, .count = 3}, "same");
    const Bounded expected = moe_linear_bounded(exact(x), decoded(matrices, QuantFormat::kF32),
                                                chosen, 1, 43, DType::kF32);
    check_close("moe_linear", out.get("out"), expected.value, expected.error);
  });
}

TEST_CASE("moe_linear keeps a NaN to its row, an infinity to its expert's channel") {
  on_every_backend([](Backend& backend) {
    for (const DType dtype : cases::kFloatTypes) {
      std::vector<HostMatrix> matrices;
      for (std::uint64_t e = 0; e < 3; ++e) {
        Values w = uniform(19 * 43, 52 + e, dtype, 0.5, 1.0);
        if (e == 1) w[7 * 43] = kInfinity;
        matrices.push_back(matrix_of(dtype, 19, 43, w));
      }
      const UploadedWeight weight(backend, matrices, plain_format(dtype));
      Values x = uniform(9 * 43, 51, dtype, 0.5, 1.0);
      x[4 * 43 + 42] = kNan;
      const std::vector<std::int32_t> chosen = {0, 1, 2, 1, 2, 0, 1, 0, 1,
                                                2, 0, 2, 1, 2, 0, 1, 0, 2};
      const Guarded from(backend, dtype, {9, 1, 43}, x, kOddStrides);
      const Guarded ids(backend, DType::kI32, {9, 2}, as_values(chosen));
      Guarded out(backend, dtype, {9, 2, 19}, kOddStrides);
      run(backend, {.out = out, .x = from, .weight = weight, .experts = ids, .count = 3}, "NaN");
      const Bounded expected = moe_linear_bounded(exact(x), decoded(matrices, plain_format(dtype)),
                                                  chosen, 2, 43, dtype);
      check_close(concat("moe_linear ", dtype), out.get("out"), expected.value, expected.error);
    }
  });
}

}  // namespace
}  // namespace engine::test
