#include <algorithm>
#include <memory>

#include "kernels/cases/cases.h"
#include "tests/support/backends.h"
#include "tests/support/bounds.h"
#include "tests/support/guarded.h"

namespace engine::test {
namespace {

// Two roundings of 16-bit storage (weights and result); scores of magnitude S are off by S times
// what their dot product accumulates; numerator and denominator accumulate over the keys.
double attention_nmse(const cases::AttentionCase& problem, double score, DType dtype) {
  const double rounding = (dtype == DType::kF32 ? 1.0 : 2.0) * rounding_nmse(dtype);
  return rounding +
         (accumulation_nmse(problem.head_size, dtype) + 64.0 * kFp32 * kFp32) *
             (1.0 + score * score) +
         2.0 * accumulation_nmse(problem.position + problem.tokens, dtype);
}

// Tensors of one problem. Keys and values that no query sees are NaN: a kernel that lets one in,
// even times zero, shows it.
struct Attention {
  Attention(Backend& on, const cases::AttentionCase& c, DType type, Layout layout,
            double magnitude = 1.0)
      : backend(on),
        problem(c),
        dtype(type),
        shape{c.tokens, c.heads, c.head_size},
        cache{c.kv_heads, c.capacity(), c.head_size},
        q(uniform(shape.numel(), 1, type, -2.0, 2.0)),
        k(uniform(cache.numel(), 2, type, -magnitude, magnitude)),
        v(uniform(cache.numel(), 3, type)),
        q_tensor(on, type, shape, layout),
        k_tensor(on, type, cache, layout),
        v_tensor(on, type, cache, layout),
        out(on, type, shape, layout),
        lse(on, DType::kF32, {c.heads, c.tokens}),
        position(on, DType::kI32, {1}, Values{static_cast<double>(c.position)}) {
    const reference::AttentionProblem p = oracle();
    const std::int64_t first = p.first_key(0), end = p.position + p.tokens;
    for (std::int64_t row = 0; row < c.kv_heads * c.capacity(); ++row) {
      const std::int64_t j = row % c.capacity();
      if (j >= first && j < end) continue;
      for (std::int64_t i = row * c.head_size; i < (row + 1) * c.head_size; ++i) {
        k[static_cast<std::size_t>(i)] = v[static_cast<std::size_t>(i)] = kNan;
      }
    }
    q_tensor.set(q);
    k_tensor.set(k);
    v_tensor.set(v);
  }

  reference::AttentionProblem oracle() const {
    return {.tokens = problem.tokens,
            .heads = problem.heads,
            .kv_heads = problem.kv_heads,
            .head_size = problem.head_size,
            .capacity = problem.capacity(),
            .position = problem.position,
            .scale = static_cast<double>(scale()),
            .causal = problem.causal,
            .window = problem.window};
  }
  float scale() const { return 1.0f / std::sqrt(static_cast<float>(problem.head_size)); }
  AttentionCall call(bool with_lse) const {
    return {.out = out,
            .q = q_tensor,
            .k_cache = k_tensor,
            .v_cache = v_tensor,
            .position = position,
            .bound = problem.bound(),
            .scale = scale(),
            .causal = problem.causal,
            .window = problem.window,
            .lse = with_lse ? lse.tensor() : Tensor{}};
  }
  // Eagerly, with exactly the scratch that the backend asks for.
  void run(bool with_lse) {
    const AttentionCall c = call(with_lse);
    GuardedWorkspace scratch(backend, [&](Ops& ops, Workspace ws) { ops.attention(c, ws); });
    backend.ops().attention(c, scratch.workspace());
    scratch.check("attention scratch");
  }
  std::string name() const { return concat("attention ", problem.name(), " ", dtype); }

  Backend& backend;
  cases::AttentionCase problem;
  DType dtype;
  Shape shape, cache;
  Values q, k, v;
  Guarded q_tensor, k_tensor, v_tensor, out, lse, position;
};

// The sub-problem of some query heads, so that the oracle's time stays bounded.
struct HeadSample {
  std::vector<std::int64_t> heads;
  AttentionBounds bounds;  // out (T, heads, Dh), lse (heads, T)
};

HeadSample expected_of(const Attention& a) {
  HeadSample sample;
  const std::int64_t total = a.problem.heads, group = total / a.problem.kv_heads;
  const std::int64_t cost_of_head = a.problem.cost(a.dtype).flops / total;
  const std::int64_t count =
      std::min(std::max<std::int64_t>(16'000'000 / (cost_of_head + 1), 2), total);
  for (std::int64_t i = 0; i < std::min(count, total); ++i) {
    sample.heads.push_back(count == 1 ? 0 : i * (total - 1) / std::max<std::int64_t>(1, count - 1));
  }
  const auto width = static_cast<std::size_t>(a.problem.head_size);
  sample.bounds.value.out.resize(static_cast<std::size_t>(a.problem.tokens) * sample.heads.size() *
                                 width);
  sample.bounds.out_error = sample.bounds.value.out;
  for (std::size_t index = 0; index < sample.heads.size(); ++index) {
    const std::int64_t h = sample.heads[index];
    reference::AttentionProblem problem = a.oracle();
    problem.heads = problem.kv_heads = 1;
    const std::int64_t row = a.problem.heads * a.problem.head_size;
    const Values q = columns(a.q, row, h * a.problem.head_size, a.problem.head_size);
    const std::int64_t cache_row = a.problem.capacity() * a.problem.head_size;
    const auto begin = h / group * cache_row;
    const Values k(a.k.begin() + begin, a.k.begin() + begin + cache_row);
    const Values v(a.v.begin() + begin, a.v.begin() + begin + cache_row);
    const AttentionBounds one = attention_bounded(problem, q, k, v, a.dtype);
    for (std::size_t t = 0; t < static_cast<std::size_t>(a.problem.tokens); ++t) {
      for (std::size_t i = 0; i < width; ++i) {
        const std::size_t to = (t * sample.heads.size() + index) * width + i;
        sample.bounds.value.out[to] = one.value.out[t * width + i];
        sample.bounds.out_error[to] = one.out_error[t * width + i];
      }
    }
    for (std::size_t t = 0; t < one.value.lse.size(); ++t) {
      sample.bounds.value.lse.push_back(one.value.lse[t]);
      sample.bounds.lse_error.push_back(one.lse_error[t]);
    }
  }
  return sample;
}

void check_attention(Attention& a, const HeadSample& expected, bool with_lse, double score) {
  const std::string what = a.name() + (with_lse ? " with lse" : "");
  const Values out = a.out.get(what), lse = a.lse.get(what);
  const std::int64_t row = a.problem.heads * a.problem.head_size;
  Values found(expected.bounds.value.out.size()), found_lse;
  const auto width = static_cast<std::size_t>(a.problem.head_size);
  for (std::size_t t = 0; t < static_cast<std::size_t>(a.problem.tokens); ++t) {
    for (std::size_t index = 0; index < expected.heads.size(); ++index) {
      const auto h = static_cast<std::size_t>(expected.heads[index]);
      std::copy_n(
          out.begin() + static_cast<std::ptrdiff_t>(t * static_cast<std::size_t>(row) + h * width),
          width,
          found.begin() + static_cast<std::ptrdiff_t>((t * expected.heads.size() + index) * width));
    }
  }
  check_close(what, found, expected.bounds.value.out, expected.bounds.out_error);
  check_nmse(what, found, expected.bounds.value.out, attention_nmse(a.problem, score, a.dtype));
  CHECK_MESSAGE(std::none_of(out.begin(), out.end(), [](double x) { return std::isnan(x); }), what,
                ": NaN in some head");
  for (const std::int64_t h : expected.heads) {
    for (std::int64_t t = 0; t < a.problem.tokens; ++t) {
      found_lse.push_back(lse[static_cast<std::size_t>(h * a.problem.tokens + t)]);
    }
  }
  if (with_lse) {
    check_close(what + ": lse", found_lse, expected.bounds.value.lse, expected.bounds.lse_error);
  } else {
    check_close(what + ": lse untouched", lse, Values(lse.size(), kNan), Values(lse.size(), 0.0));
  }
}

// |q| |k| scale of uniform entries of magnitudes 2 and m: Dh · (2 ÷ √3) (m ÷ √3) ÷ √Dh.
double typical_score(std::int64_t head_size, double magnitude) {
  return std::sqrt(static_cast<double>(head_size)) * 2.0 * magnitude / 3.0;
}

TEST_CASE("attention of every shape and type is within its bound") {
  on_every_backend([](Backend& backend) {
    for (const cases::AttentionCase& problem : cases_for(backend, cases::attention_cases())) {
      for (const DType dtype : cases::kFloatTypes) {
        if (!runs_in(backend, problem, dtype)) continue;
        Attention dense(backend, problem, dtype, kDense);
        const HeadSample expected = expected_of(dense);
        const double score = typical_score(problem.head_size, 1.0);
        dense.run(true);
        check_attention(dense, expected, true, score);
        if (problem.large) continue;
        Attention strided(backend, problem, dtype, kOddStrides);
        strided.run(false);
        check_attention(strided, expected, false, score);
        Attention wide(backend, problem, dtype, kWideStrides);
        wide.run(true);
        check_attention(wide, expected, true, score);
      }
    }
  });
}

TEST_CASE("attention with scores far apart stays finite and within its bound") {
  on_every_backend([](Backend& backend) {
    for (const cases::AttentionCase& problem :
         {cases::AttentionCase{1, 4, 2, 64, 300}, cases::AttentionCase{33, 4, 2, 64, 100}}) {
      for (const DType dtype : cases::kFloatTypes) {
        Attention a(backend, problem, dtype, kDense, 100.0);
        a.run(true);
        check_attention(a, expected_of(a), true, typical_score(64, 100.0));
      }
    }
  });
}

TEST_CASE("attention weighs a later, greater key as much as an earlier one") {
  // The running maximum rises at a different block for each token; ones make the result 1 exactly
  // but for the division's rounding.
  on_every_backend([](Backend& backend) {
    for (const DType dtype : cases::kFloatTypes) {
      Attention a(backend, {4, 2, 1, 64, 700}, dtype, kDense);
      for (std::size_t i = 0; i < a.k.size(); ++i) {
        const double rising = static_cast<double>(i / 64) / 50.0;
        if (!std::isnan(a.k[i])) a.k[i] = reference::round_to(dtype, rising);
        if (!std::isnan(a.v[i])) a.v[i] = 1.0;
      }
      for (double& x : a.q) x = 0.5;
      a.k_tensor.set(a.k);
      a.v_tensor.set(a.v);
      a.q_tensor.set(a.q);
      a.run(true);
      check_attention(a, expected_of(a), true, 8.0 * 0.5 * 14.0);
    }
  });
}

TEST_CASE("attention with a bound far past the length sees the same keys") {
  on_every_backend([](Backend& backend) {
    for (const std::int64_t slack : {0, 1, 63, 64, 255, 1000, 5000}) {
      for (const std::int64_t tokens : {1, 9}) {
        Attention a(backend, {tokens, 4, 2, 64, 200, slack}, DType::kF32, kDense);
        a.run(true);
        check_attention(a, expected_of(a), true, typical_score(64, 1.0));
      }
    }
  });
}

TEST_CASE("attention replayed is bitwise the eager step at every position") {
  on_every_backend([](Backend& backend) {
    for (const DType dtype : cases::kFloatTypes) {
      for (const std::int64_t tokens : {1, 5}) {
        // One recording, bound for 1100 keys, replayed as the position moves on.
        Attention a(backend, {tokens, 4, 2, 64, 1000, 100 - tokens}, dtype, kDense);
        a.k = uniform(a.cache.numel(), 5, dtype);
        a.v = uniform(a.cache.numel(), 6, dtype);
        a.k_tensor.set(a.k);
        a.v_tensor.set(a.v);
        const AttentionCall call = a.call(true);
        GuardedWorkspace scratch(backend, [&](Ops& o, Workspace ws) { o.attention(call, ws); });
        const std::unique_ptr<Plan> plan =
            backend.record([&](Ops& ops) { ops.attention(call, scratch.workspace()); });
        for (const std::int64_t position : {0, 1, 255, 256, 511, 1000, 1100 - 5}) {
          a.position.set({static_cast<double>(position)});
          a.out.set(Values(a.q.size(), kNan));
          plan->run();
          const Values replayed = a.out.get("out"), replayed_lse = a.lse.get("lse");
          a.out.set(Values(a.q.size(), kNan));
          backend.ops().attention(call, scratch.workspace());
          check_equal(concat("replay at ", position), replayed, a.out.get("out"));
          check_equal(concat("replayed lse at ", position), replayed_lse, a.lse.get("lse"));
          a.problem.position = position;
          a.problem.slack = 1100 - position - tokens;  // the same bound
          check_attention(a, expected_of(a), true, typical_score(64, 1.0));
        }
      }
    }
  });
}

TEST_CASE("attention keeps a NaN query to its own head and token") {
  on_every_backend([](Backend& backend) {
    for (const DType dtype : cases::kFloatTypes) {
      Attention a(backend, {5, 4, 2, 24, 40}, dtype, kDense);
      const std::size_t row = 2 * 4 + 1;
      a.q[row * 24 + 23] = kNan;
      a.q_tensor.set(a.q);
      a.run(false);
      const Values out = a.out.get("out");
      for (std::size_t r = 0; r < out.size() / 24; ++r) {
        for (std::size_t i = 0; i < 24; ++i) CHECK(std::isnan(out[r * 24 + i]) == (r == row));
      }
    }
  });
}

TEST_CASE("attention lets a NaN among the visible keys or values through") {
  on_every_backend([](Backend& backend) {
    for (const DType dtype : cases::kFloatTypes) {
      for (const bool in_keys : {false, true}) {
        Attention a(backend, {1, 2, 1, 24, 300}, dtype, kDense);
        (in_keys ? a.k : a.v)[77 * 24 + 5] = kNan;
        a.k_tensor.set(a.k);
        a.v_tensor.set(a.v);
        a.run(false);
        const Values out = a.out.get("out");
        CHECK_MESSAGE(std::isnan(out[5]), dtype, in_keys ? " key" : " value");
        CHECK_MESSAGE(std::isnan(out[24 + 5]), dtype, in_keys ? " key" : " value");
      }
    }
  });
}

}  // namespace
}  // namespace engine::test
