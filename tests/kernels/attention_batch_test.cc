// Attention over dense and ragged batches with score functions, against the oracle.
#include <cstring>
#include <memory>

#include "tests/support/attention_batch.h"
#include "tests/support/bounds.h"
#include "tests/support/outcome.h"

namespace engine::test {
namespace {

// The plain composition in `dtype`: weights and result rounded, everything between exact but, in
// f32, summed in f32. What a fused attention's error is measured by.
Values composition(const reference::AttentionBatchProblem& p, const Values& q, const Values& k,
                   const Values& v, DType dtype) {
  Values out(q.size(), 0.0);
  const auto width = static_cast<std::size_t>(p.head_size);
  for (std::int64_t i = 0; i < p.queries; ++i) {
    for (std::int64_t h = 0; h < p.heads; ++h) {
      const std::size_t at = static_cast<std::size_t>(i * p.heads + h) * width;
      const Values weights = reference::attention_weights(p, q, k, i, h);
      for (std::size_t d = 0; d < width; ++d) {
        double sum = 0.0;
        for (std::int64_t j = 0; j < p.keys; ++j) {
          const double term = reference::round_to(dtype, weights[static_cast<std::size_t>(j)]) *
                              v[p.key_row(j, h) * width + d];
          sum = dtype == DType::kF32 ? reference::round_to(dtype, sum + term) : sum + term;
        }
        out[at + d] = reference::round_to(dtype, sum);
      }
    }
  }
  return out;
}

struct Errors {
  double greatest = 0.0, mean = 0.0;
};

Errors errors_of(const Values& found, const Values& expected) {
  Errors e;
  for (std::size_t i = 0; i < found.size(); ++i) {
    const double error = std::fabs(found[i] - expected[i]);
    e.greatest = std::isnan(error) ? kInfinity : std::max(e.greatest, error);
    e.mean += error / static_cast<double>(found.size());
  }
  return e;
}

// Scores of up to `spread` are off by what their dot product and the distance accumulate, 2^-22 of
// them, times the values' magnitude of at most 1; each exp2 by two units.
double floor_of(DType dtype, double spread) {
  return (dtype == DType::kF32 ? 16.0 : 4.0) * kFp32 * (8.0 + spread);
}

void check_batch(BatchAttention& a, bool with_lse) {
  const Values out = a.out.get(a.name()), lse = a.lse.get(a.name());
  for (std::size_t n = 0; n < a.problem.queries.size(); ++n) {
    if (a.problem.queries[n] == 0) continue;
    const std::string what = concat(a.name(), ": sequence ", n);
    const reference::AttentionBatchProblem p = a.oracle(n);
    const Values q = a.of_queries(a.q, n), k = a.of_keys(a.k, n), v = a.of_keys(a.v, n);
    const reference::AttentionResult expected = reference::attention_batch(p, q, k, v);
    const Values found = a.of_queries(out, n);
    const Errors plain = errors_of(composition(p, q, k, v, a.dtype), expected.out);
    const Errors own = errors_of(found, expected.out);
    const double spread = static_cast<double>(p.keys + p.position + p.queries);
    const double floor = floor_of(a.dtype, p.kind == ScoreKind::kRel ? spread : 8.0);
    CHECK_MESSAGE(own.greatest <= 2.0 * plain.greatest + floor, what, ": error ", own.greatest,
                  ", the plain composition's is ", plain.greatest);
    const double room = found.size() >= 4096 ? 1.1 : 1.5;
    CHECK_MESSAGE(own.mean <= room * plain.mean + floor, what, ": mean error ", own.mean,
                  ", the plain composition's is ", plain.mean);
    if (!with_lse) continue;
    Values tolerance;
    for (const double x : expected.lse) {
      tolerance.push_back(std::isinf(x) ? 0.0 : 64.0 * kFp32 * (8.0 + spread + std::fabs(x)));
    }
    check_close(what + ": lse", a.of_lse(lse, n), expected.lse, tolerance);
  }
  if (!with_lse) {
    check_close(a.name() + ": lse untouched", lse, Values(lse.size(), kNan),
                Values(lse.size(), 0.0));
  }
}

std::vector<BatchCase> all_cases() {
  std::vector<BatchCase> cases;
  for (const ScoreKind kind : kScoreKinds) {
    for (const std::int64_t head_size : {16, 64, 128}) {
      cases.push_back(dense_case(2, 150, 150, head_size, kind));
    }
    BatchCase ragged = dense_case(1, 1, 5, 64, kind);
    ragged.queries = {1, 0, 130, 70, 3}, ragged.keys = {5, 40, 257, 70, 0};
    ragged.ragged = true;
    cases.push_back(ragged);
  }
  for (const std::int64_t head_size : {8, 24, 32, 40, 80, 96, 100, 192, 256, 320}) {
    cases.push_back(dense_case(1, 70, 90, head_size));
  }
  for (const std::int64_t length : {1, 2, 63, 64, 65, 239}) {
    cases.push_back(dense_case(1, length, length, 128, ScoreKind::kCausal));
  }
  BatchCase chunk = dense_case(2, 100, 260, 128, ScoreKind::kRel);  // queries late in a cache
  chunk.position = 160, chunk.causal = true, chunk.heads = 6, chunk.kv_heads = 2;
  cases.push_back(chunk);
  chunk.window = 90, chunk.head_size = 64, chunk.kind = ScoreKind::kAlibi;
  cases.push_back(chunk);
  BatchCase blind = dense_case(1, 40, 30, 64);  // queries past every key in their window
  blind.position = 20, blind.causal = true, blind.window = 5;
  cases.push_back(blind);
  BatchCase prefix = dense_case(1, 300, 300, 64, ScoreKind::kPrefixLm);
  prefix.extent = 200;
  cases.push_back(prefix);
  BatchCase many = dense_case(3, 129, 129, 64);  // more items than multiprocessors
  many.heads = 48, many.kv_heads = 48, many.large = true;
  cases.push_back(many);
  BatchCase long_context = dense_case(1, 2, 131072, 64);
  long_context.large = true;
  cases.push_back(long_context);
  BatchCase window = dense_case(1, 799, 799, 128, ScoreKind::kSlidingWindow);
  window.large = true;
  cases.push_back(window);
  return cases;
}

TEST_CASE("attention_batch is as exact as the plain composition") {
  on_every_backend([](Backend& backend) {
    for (const BatchCase& problem : cases_for(backend, all_cases())) {
      for (const DType dtype : {DType::kF32, DType::kF16, DType::kBF16}) {
        if (!runs_in(backend, problem, dtype)) continue;
        BatchAttention dense(backend, problem, dtype);
        dense.run();
        check_batch(dense, true);
      }
    }
  });
}

TEST_CASE("attention_batch takes strided operands") {
  on_every_backend([](Backend& backend) {
    for (const std::int64_t head_size : {24, 64, 128}) {
      for (const Layout& layout : {kOddStrides, kWideStrides}) {
        for (const DType dtype : {DType::kF32, DType::kF16, DType::kBF16}) {
          BatchAttention a(backend, dense_case(2, 50, 66, head_size, ScoreKind::kHeadBias), dtype,
                           layout);
          a.run(false);
          check_batch(a, false);
        }
      }
    }
  });
}

TEST_CASE("attention_batch repeats itself bit by bit, eager and replayed") {
  on_every_backend([](Backend& backend) {
    const int repeats = backend.device().kind == DeviceKind::kCuda ? 250 : 5;
    for (const std::int64_t head_size : {16, 64, 128}) {
      BatchAttention a(backend, dense_case(2, 300, 300, head_size, ScoreKind::kRel), DType::kBF16);
      const AttentionBatchCall call = a.call();
      GuardedWorkspace scratch(backend,
                               [&](Ops& ops, Workspace ws) { ops.attention_batch(call, ws); });
      backend.ops().attention_batch(call, scratch.workspace());
      const Values first = a.out.get("out"), first_lse = a.lse.get("lse");
      const std::unique_ptr<Plan> plan =
          backend.record([&](Ops& ops) { ops.attention_batch(call, scratch.workspace()); });
      a.out.set(Values(first.size(), kNan));
      plan->run();
      check_equal("replayed", a.out.get("out"), first);
      std::vector<std::uint8_t> bytes(call.out.bytes()), again(bytes.size());
      backend.read(bytes.data(), call.out);
      for (int i = 0; i < repeats; ++i) {
        backend.ops().attention_batch(call, scratch.workspace());
        backend.read(again.data(), call.out);
        REQUIRE(std::memcmp(bytes.data(), again.data(), bytes.size()) == 0);
      }
      check_equal("lse", a.lse.get("lse"), first_lse);
    }
  });
}

// Scores and weights are rounded as they are stored: one unit of the greatest score, and of 1.
TEST_CASE("attention composed of primitives agrees with the oracle") {
  on_every_backend([](Backend& backend) {
    for (const ScoreKind kind : kScoreKinds) {
      for (const DType dtype : {DType::kF32, DType::kF16, DType::kBF16}) {
        BatchCase problem = dense_case(2, 70, 72, 64, kind);
        problem.heads = 4, problem.kv_heads = 2;
        BatchAttention a(backend, problem, dtype);
        const AttentionBatchCall call = a.call(false);
        GuardedWorkspace scratch(
            backend, [&](Ops& ops, Workspace ws) { attention_composed(ops, call, ws); });
        attention_composed(backend.ops(), call, scratch.workspace());
        const Values out = a.out.get(a.name());
        for (std::size_t n = 0; n < 2; ++n) {
          const Values expected = reference::attention_batch(a.oracle(n), a.of_queries(a.q, n),
                                                             a.of_keys(a.k, n), a.of_keys(a.v, n))
                                      .out;
          const double u = unit_roundoff(dtype) + 64.0 * kFp32;
          check_close(a.name(), a.of_queries(out, n), expected, Values(expected.size(), 16.0 * u));
        }
      }
    }
  });
}

TEST_CASE("attention_batch refuses what does not fit together") {
  on_every_backend([](Backend& backend) {
    BatchAttention a(backend, dense_case(2, 8, 8, 16), DType::kF32);
    const auto refused = [&](AttentionBatchCall call, const char* word) {
      const Outcome outcome = outcome_of([&] { check_call(call); });
      CHECK_MESSAGE(outcome.says(word), outcome.message, " should name ", word);
    };
    AttentionBatchCall call = a.call();
    call.v = call.v.slice(1, 0, 7);
    refused(call, "v has shape");
    call = a.call();
    call.query_offsets = a.lse;
    refused(call, "offsets of queries or of keys alone");
    call = a.call();
    call.window = -1;
    refused(call, "window");
    call = a.call();
    call.score = {ScoreKind::kSlidingWindow, 0, 0.0f, {}};
    refused(call, "sliding_window");
    call.score = {ScoreKind::kSoftCap, 0, 0.0f, {}};
    refused(call, "cap");
    call.score = {ScoreKind::kDocument, 0, 0.0f, {}};
    refused(call, "spans");
  });
  on_every_backend([](Backend& backend) {
    BatchAttention wide(backend, dense_case(1, 4, 4, 520), DType::kF32);
    if (backend.device().kind != DeviceKind::kCuda) return;
    CHECK_THROWS_AS(wide.run(), Error);
  });
}

}  // namespace
}  // namespace engine::test
