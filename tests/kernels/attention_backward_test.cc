// The gradients of attention in every shape that a kernel treats apart, how exact they are beside
// the composition of single ops, and whether they repeat.
#include <cmath>
#include <cstring>

#include "tests/support/attention_batch.h"
#include "tests/support/bounds.h"

namespace engine::test {
namespace {

struct Gradients {
  Values dq, dk, dv;
};

// attention_batch and then its gradients of one batch.
class Backward {
 public:
  Backward(Backend& on, const BatchCase& problem, DType dtype, Layout layout = kDense)
      : forward(on, problem, dtype, layout),
        backend_(on),
        dout_(on, dtype, forward.q_tensor.tensor().shape, forward.dout, layout),
        dq_(on, dtype, forward.q_tensor.tensor().shape, layout),
        dk_(on, dtype, forward.k_tensor.tensor().shape, layout),
        dv_(on, dtype, forward.k_tensor.tensor().shape, layout) {
    forward.run();
  }

  AttentionGradCall call(bool deterministic) const {
    return {forward.call(), dout_, dq_, dk_, dv_, deterministic};
  }
  Gradients run(bool deterministic) {
    const AttentionGradCall c = call(deterministic);
    GuardedWorkspace scratch(backend_,
                             [&](Ops& ops, Workspace ws) { ops.attention_backward(c, ws); });
    backend_.ops().attention_backward(c, scratch.workspace());
    scratch.check("attention_backward scratch");
    return {dq_.get("dq"), dk_.get("dk"), dv_.get("dv")};
  }

  BatchAttention forward;

 private:
  Backend& backend_;
  Guarded dout_, dq_, dk_, dv_;
};

reference::AttentionGradients expected_of(const BatchAttention& a, std::size_t n) {
  const BatchCase& c = a.problem;
  const auto width = static_cast<std::size_t>(c.kv_heads * c.head_size);
  const Values zeros(static_cast<std::size_t>(c.keys[n]) * width, 0.0);
  if (c.queries[n] == 0) return {{}, zeros, zeros};
  return reference::attention_backward(a.oracle(n), a.of_queries(a.q, n), a.of_keys(a.k, n),
                                       a.of_keys(a.v, n), a.of_queries(a.dout, n));
}

// Σ |error|, the greatest one, and Σ error² of some values.
struct Error {
  double mean = 0.0, greatest = 0.0;
};
Error error_of(const Values& found, const Values& expected) {
  REQUIRE(found.size() == expected.size());
  Error e;
  for (std::size_t i = 0; i < found.size(); ++i) {
    const double d = std::fabs(found[i] - expected[i]);
    if (!(d <= e.greatest)) e.greatest = std::isnan(d) ? kInfinity : d;
    e.mean += d / static_cast<double>(found.size());
  }
  return e;
}

// The gradients as single ops would form them, each result rounded to the type: S, P, dP, dS, the
// products. What a fused backward is measured by.
Gradients composed(const BatchAttention& a, std::size_t n) {
  const reference::AttentionBatchProblem p = a.oracle(n);
  const Values q = a.of_queries(a.q, n), k = a.of_keys(a.k, n), v = a.of_keys(a.v, n);
  const Values dout = a.of_queries(a.dout, n);
  const auto width = static_cast<std::size_t>(p.head_size);
  const auto round = [&](double x) { return reference::round_to(a.dtype, x); };
  Gradients g{Values(q.size()), Values(k.size()), Values(k.size())};
  for (std::int64_t h = 0; h < p.heads; ++h) {
    for (std::int64_t i = 0; i < p.queries; ++i) {
      const std::size_t at = static_cast<std::size_t>(i * p.heads + h) * width;
      Values weight, dp;
      double greatest = -kInfinity, sum = 0.0, delta = 0.0;
      for (std::int64_t j = 0; j < p.keys; ++j) {
        const std::size_t key = p.key_row(j, h) * width;
        double s = 0.0, product = 0.0;
        for (std::size_t d = 0; d < width; ++d) {
          s += q[at + d] * k[key + d];
          product += dout[at + d] * v[key + d];
        }
        const bool seen = !p.causal || j <= p.position + i;
        weight.push_back(seen ? round(p.scale * s) : -kInfinity);
        dp.push_back(round(product));
        greatest = std::max(greatest, weight.back());
      }
      for (const double s : weight) sum += std::exp(s - greatest);
      for (std::size_t j = 0; j < weight.size(); ++j) {
        weight[j] = round(std::exp(weight[j] - greatest) / sum);
        delta += weight[j] * dp[j];
      }
      for (std::int64_t j = 0; j < p.keys; ++j) {
        const auto index = static_cast<std::size_t>(j);
        const std::size_t key = p.key_row(j, h) * width;
        const double ds = round(weight[index] * (dp[index] - delta));
        for (std::size_t d = 0; d < width; ++d) {
          g.dq[at + d] += p.scale * ds * k[key + d];
          g.dk[key + d] += p.scale * ds * q[at + d];
          g.dv[key + d] += weight[index] * dout[at + d];
        }
      }
    }
  }
  for (Values* values : {&g.dq, &g.dk, &g.dv}) {
    for (double& x : *values) x = round(x);
  }
  return g;
}

// The sum of both modes' checks of one batch against the oracle.
void check_batch(Backward& a, bool deterministic) {
  const BatchCase& c = a.forward.problem;
  const DType dtype = a.forward.dtype;
  const Gradients got = a.run(deterministic);
  for (std::size_t n = 0; n < c.queries.size(); ++n) {
    const reference::AttentionGradients want = expected_of(a.forward, n);
    const auto check = [&](const char* name, const Values& found, const Values& expected) {
      // As in attention_gradient_test.cc: 8 roundings of the greatest gradient for each element.
      // Where little is seen dP − δ cancels: two sums of Dh products below 1 leave Dh ÷ 2 roundings
      // of 2⁻²⁴, times |q| ≤ 2 and the scale, and like a random walk over the rows of a sum.
      const double rows = static_cast<double>(std::max(c.queries[n], c.keys[n]) * c.heads);
      const double cancelled = kFp32 * static_cast<double>(c.head_size) *
                               static_cast<double>(a.forward.scale()) * std::sqrt(rows);
      double greatest = 1e-3;
      for (const double x : expected) greatest = std::max(greatest, std::fabs(x));
      const double u = unit_roundoff(dtype) + 256.0 * kFp32;
      check_close(concat(a.forward.name(), " ", name, deterministic ? "" : ", any order"), found,
                  expected, Values(expected.size(), 8.0 * u * greatest + cancelled));
    };
    check("dq", a.forward.of_queries(got.dq, n), want.dq);
    check("dk", a.forward.of_keys(got.dk, n), want.dk);
    check("dv", a.forward.of_keys(got.dv, n), want.dv);
  }
}

BatchCase with(BatchCase c, std::int64_t heads, std::int64_t kv_heads, bool causal,
               std::int64_t window = 0, std::int64_t position = 0) {
  c.heads = heads, c.kv_heads = kv_heads, c.causal = causal, c.window = window;
  c.position = position;
  return c;
}

BatchCase ragged(std::vector<std::int64_t> queries, std::vector<std::int64_t> keys,
                 std::int64_t head_size, bool causal) {
  BatchCase c = with(dense_case(1, 1, 1, head_size), 4, 2, causal);
  c.queries = std::move(queries), c.keys = std::move(keys), c.ragged = true;
  return c;
}

std::vector<BatchCase> shapes() {
  return {with(dense_case(1, 1, 1, 128), 2, 2, false),
          with(dense_case(2, 64, 128, 128), 2, 1, false),
          with(dense_case(1, 239, 239, 128), 2, 2, true),
          with(dense_case(1, 65, 257, 64), 4, 2, true, 0, 192),
          with(dense_case(1, 200, 200, 64), 2, 2, true, 70),
          with(dense_case(1, 130, 300, 96), 2, 1, false),
          with(dense_case(2, 33, 40, 40), 3, 3, true),
          with(dense_case(1, 20, 19, 24), 3, 1, false),
          with(dense_case(1, 9, 30, 160), 2, 1, true, 0, 21),
          ragged({70, 3, 0, 129}, {70, 3, 5, 129}, 128, true),
          ragged({1, 65, 40}, {200, 1, 0}, 64, false)};
}

TEST_CASE("attention_backward of every shape agrees with the oracle") {
  on_every_backend([](Backend& backend) {
    for (const BatchCase& problem : shapes()) {
      for (const DType dtype : {DType::kF32, DType::kF16, DType::kBF16}) {
        Backward a(backend, problem, dtype);
        check_batch(a, true);
        check_batch(a, false);
      }
    }
  });
}

TEST_CASE("attention_backward takes strided operands") {
  on_every_backend([](Backend& backend) {
    for (const BatchCase& problem : {with(dense_case(2, 70, 140, 64), 2, 1, true, 0, 70),
                                     ragged({70, 9}, {70, 9}, 128, true)}) {
      for (const DType dtype : {DType::kF32, DType::kBF16}) {
        for (const Layout& layout : {kOddStrides, kWideStrides}) {
          Backward a(backend, problem, dtype, layout);
          check_batch(a, true);
        }
      }
    }
  });
}

TEST_CASE("attention_backward gives zeros where nothing is seen") {
  // A window of queries past every key: none of the last sees any.
  on_every_backend([](Backend& backend) {
    const BatchCase problem = with(dense_case(1, 200, 100, 128), 2, 2, true, 50);
    for (const DType dtype : {DType::kF32, DType::kBF16}) {
      Backward a(backend, problem, dtype);
      const Gradients got = a.run(true);
      const std::size_t width = 2 * 128;
      for (std::size_t i = 149 * width; i < got.dq.size(); ++i) REQUIRE(got.dq[i] == 0.0);
      check_batch(a, true);
    }
  });
}

TEST_CASE("attention_backward is as exact as single ops") {
  on_every_backend([](Backend& backend) {
    for (const bool causal : {false, true}) {
      for (const std::int64_t head_size : {64, 128}) {
        const BatchCase problem = with(dense_case(1, 256, 256, head_size), 2, 1, causal);
        Backward a(backend, problem, DType::kBF16);
        const Gradients got = a.run(true), plain = composed(a.forward, 0);
        const reference::AttentionGradients want = expected_of(a.forward, 0);
        const auto check = [&](const char* name, const Values& found, const Values& single,
                               const Values& exact) {
          const Error fused = error_of(found, exact), limit = error_of(single, exact);
          CHECK_MESSAGE(fused.greatest <= 3.0 * limit.greatest, name, ": ", fused.greatest,
                        " against ", limit.greatest);
          CHECK_MESSAGE(fused.mean <= 1.1 * limit.mean, name, ": mean ", fused.mean, " against ",
                        limit.mean);
        };
        check("dq", got.dq, plain.dq, want.dq);
        check("dk", got.dk, plain.dk, want.dk);
        check("dv", got.dv, plain.dv, want.dv);
      }
    }
  });
}

TEST_CASE("attention_backward repeats itself bit by bit where asked to") {
  on_every_backend([](Backend& backend) {
    const int repeats = backend.device().kind == DeviceKind::kCuda ? 250 : 2;
    for (const BatchCase& problem : {with(dense_case(2, 400, 400, 128), 8, 4, true),
                                     with(dense_case(3, 300, 500, 64), 8, 8, false)}) {
      Backward a(backend, problem, DType::kBF16);
      const AttentionGradCall call = a.call(true);
      GuardedWorkspace scratch(backend,
                               [&](Ops& ops, Workspace ws) { ops.attention_backward(call, ws); });
      std::vector<std::vector<std::uint16_t>> first;
      for (int i = 0; i <= repeats; ++i) {
        backend.ops().attention_backward(call, scratch.workspace());
        std::vector<std::vector<std::uint16_t>> found;
        for (const Tensor* tensor : {&call.dq, &call.dk, &call.dv}) {
          found.emplace_back(static_cast<std::size_t>(tensor->numel()));
          backend.read(found.back().data(), *tensor);
        }
        if (i == 0) first = found;
        REQUIRE(found == first);
      }
    }
  });
}

}  // namespace
}  // namespace engine::test
