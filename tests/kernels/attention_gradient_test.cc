// Gradients of attention: the oracle against differences of its own forward, and every backend's
// against the oracle.
#include "tests/support/attention_batch.h"
#include "tests/support/bounds.h"
#include "tests/support/outcome.h"

namespace engine::test {
namespace {

double inner(const Values& a, const Values& b) {
  double sum = 0.0;
  for (std::size_t i = 0; i < a.size(); ++i) sum += a[i] * b[i];
  return sum;
}

TEST_CASE("the oracle's gradients of attention are the differences of its results") {
  for (const ScoreKind kind : kScoreKinds) {
    reference::AttentionBatchProblem p;
    p.queries = 5, p.keys = 6, p.heads = 2, p.kv_heads = 1, p.head_size = 3;
    p.position = 1, p.scale = 0.7, p.kind = kind, p.extent = 3, p.cap = 1.5;
    p.document = {0, 0, 1, 1, 1, 2, 2};
    const auto make = [](std::int64_t count, std::uint64_t seed) {
      return uniform(count, seed, DType::kF32);
    };
    const Values q = make(30, 1), k = make(18, 2), v = make(18, 3), dout = make(30, 4);
    const reference::AttentionGradients g = reference::attention_backward(p, q, k, v, dout);
    const auto loss = [&](const Values& a, const Values& b, const Values& c) {
      return inner(reference::attention_batch(p, a, b, c).out, dout);
    };
    constexpr double kStep = 1e-5;
    const auto check = [&](const char* name, const Values& gradient, auto&& shifted) {
      for (std::size_t i = 0; i < gradient.size(); ++i) {
        const double slope = (shifted(i, kStep) - shifted(i, -kStep)) / (2.0 * kStep);
        CHECK_MESSAGE(std::fabs(slope - gradient[i]) < 1e-8, score_name(kind), ": ", name, "[", i,
                      "] is ", gradient[i], ", the difference ", slope);
      }
    };
    check("dq", g.dq, [&](std::size_t i, double by) {
      Values moved = q;
      moved[i] += by;
      return loss(moved, k, v);
    });
    check("dk", g.dk, [&](std::size_t i, double by) {
      Values moved = k;
      moved[i] += by;
      return loss(q, moved, v);
    });
    check("dv", g.dv, [&](std::size_t i, double by) {
      Values moved = v;
      moved[i] += by;
      return loss(q, k, moved);
    });
  }
}

// Weights, score gradients and out (in δ) are rounded to the type in places; sums of n terms of
// random sign grow like √n, those of |ds| like Σ |p|: all within 8 units of the greatest gradient.
void check_gradients(const std::string& what, const Values& found, const Values& expected,
                     DType dtype) {
  double greatest = 1e-3;
  for (const double x : expected) greatest = std::max(greatest, std::fabs(x));
  const double u = unit_roundoff(dtype) + 256.0 * kFp32;
  check_close(what, found, expected, Values(expected.size(), 8.0 * u * greatest));
}

TEST_CASE("attention_backward agrees with the oracle for every score function") {
  on_every_backend([](Backend& backend) {
    std::vector<BatchCase> cases;
    for (const ScoreKind kind : kScoreKinds) {
      cases.push_back(dense_case(2, 70, 70, 64, kind));
      BatchCase ragged = dense_case(1, 1, 5, 32, kind);
      ragged.queries = {3, 0, 65, 9}, ragged.keys = {5, 4, 60, 0};
      ragged.ragged = true;
      cases.push_back(ragged);
    }
    for (const BatchCase& problem : cases) {
      for (const DType dtype : {DType::kF32, DType::kBF16}) {
        BatchAttention a(backend, problem, dtype);
        const Shape q_shape = a.q_tensor.tensor().shape, k_shape = a.k_tensor.tensor().shape;
        Guarded dout(backend, dtype, q_shape, a.dout), dq(backend, dtype, q_shape);
        Guarded dk(backend, dtype, k_shape), dv(backend, dtype, k_shape);
        a.run();
        const AttentionGradCall call{a.call(), dout, dq, dk, dv, true};
        const Outcome outcome = outcome_of([&] {
          GuardedWorkspace scratch(
              backend, [&](Ops& ops, Workspace ws) { ops.attention_backward(call, ws); });
          backend.ops().attention_backward(call, scratch.workspace());
        });
        if (outcome.is(ErrorKind::kUnsupported)) {
          MESSAGE("skipped: ", outcome.message);
          return;
        }
        REQUIRE_MESSAGE(outcome.ok(), outcome.message);
        const Values got_q = dq.get("dq"), got_k = dk.get("dk"), got_v = dv.get("dv");
        for (std::size_t n = 0; n < problem.queries.size(); ++n) {
          const bool hidden = problem.queries[n] == 0;
          const Values zeros(
              static_cast<std::size_t>(problem.keys[n] * problem.kv_heads * problem.head_size),
              0.0);
          reference::AttentionGradients g{{}, zeros, zeros};
          if (!hidden) {
            g = reference::attention_backward(a.oracle(n), a.of_queries(a.q, n), a.of_keys(a.k, n),
                                              a.of_keys(a.v, n), a.of_queries(a.dout, n));
          }
          check_gradients(a.name() + ": dq", a.of_queries(got_q, n), g.dq, dtype);
          check_gradients(a.name() + ": dk", a.of_keys(got_k, n), g.dk, dtype);
          check_gradients(a.name() + ": dv", a.of_keys(got_v, n), g.dv, dtype);
        }
      }
    }
  });
}

}  // namespace
}  // namespace engine::test
