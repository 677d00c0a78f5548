// The fused ops of a decoder block: against their oracles, and a backend's own body against the
// default one of ops.cc.
#include <memory>

#include "kernels/cases/cases.h"
#include "tests/support/backends.h"
#include "tests/support/bounds.h"
#include "tests/support/guarded.h"
#include "tests/support/weights.h"

namespace engine::test {
namespace {

constexpr float kEps = 1e-5f;

// Large cases are too much for an exhaustive oracle: there the two bodies are compared with each
// other only.
bool has_oracle(const cases::BlockCase& problem) { return !problem.large; }

Values rope_table(std::int64_t positions, std::int64_t head_size) {
  Values table;
  for (std::int64_t p = 0; p < positions; ++p) {
    for (std::int64_t i = 0; i < head_size; ++i) {
      const double angle = static_cast<double>(p) / static_cast<double>(1 + i % (head_size / 2));
      table.push_back(
          reference::round_to(DType::kF32, i < head_size / 2 ? std::cos(angle) : std::sin(angle)));
    }
  }
  return table;
}

// Calls `fused(workspace)` with exactly the scratch of the default body, between guards.
template <typename Call>
void run(Backend& backend, const Call& call, bool default_body) {
  GuardedWorkspace scratch(backend, [&](Ops& ops, Workspace ws) { run_call(ops, call, ws); });
  Ops& ops = backend.ops();
  if constexpr (std::is_same_v<Call, AttentionInCall>) {
    default_body ? ops.Ops::attention_in(call, scratch.workspace())
                 : ops.attention_in(call, scratch.workspace());
  } else if constexpr (std::is_same_v<Call, AttentionOutCall>) {
    default_body ? ops.Ops::attention_out(call, scratch.workspace())
                 : ops.attention_out(call, scratch.workspace());
  } else {
    default_body ? ops.Ops::feed_forward(call, scratch.workspace())
                 : ops.feed_forward(call, scratch.workspace());
  }
  scratch.check("scratch of a fused op");
}

// `roundings` to the stored type stand between input and output, each u² at the most relative to
// what it rounds. Random weights neither raise nor lower that relative error, and a residual only
// adds to the result; the dot products, of `terms` in all, accumulate in fp32.
double fused_nmse(std::int64_t terms, int roundings, DType dtype) {
  return roundings * rounding_nmse(dtype) + 4.0 * accumulation_nmse(terms, dtype);
}

struct Block {
  Block(Backend& on, const cases::BlockCase& c, DType type, QuantFormat stored)
      : backend(on),
        problem(c),
        dtype(type),
        format(stored),
        joined((c.heads + 2 * c.kv_heads) * c.head_size),
        x(uniform(c.tokens * c.width, 1, type, -2.0, 2.0)),
        norm(uniform(c.width, 2, type, 0.5, 1.5)) {}

  std::string name(const char* op, bool default_body) const {
    return concat(op, " ", problem.name(), " ", dtype, " by ", format_info(format).name,
                  default_body ? " default body" : "");
  }

  Backend& backend;
  cases::BlockCase problem;
  DType dtype;
  QuantFormat format;  // of the weights
  std::int64_t joined;
  Values x, norm;
};

void check_attention_in(const Block& block) {
  const cases::BlockCase& c = block.problem;
  const DType dtype = block.dtype;
  const HostMatrix qkv = scaled_matrix(dtype, block.joined, c.width, 3);
  const UploadedWeight weight(block.backend, {qkv}, block.format);
  const Values table = rope_table(c.capacity(), c.head_size);
  const Guarded table_tensor(block.backend, DType::kF32, {c.capacity(), c.head_size}, table);
  const Guarded position(block.backend, DType::kI32, {1}, Values{static_cast<double>(c.position)});
  const Guarded norm(block.backend, dtype, {c.width}, block.norm);
  const Shape q_shape = {c.tokens, c.heads, c.head_size};
  const Shape cache_shape = {c.kv_heads, c.capacity(), c.head_size};
  const Values held = uniform(cache_shape.numel(), 4, dtype);

  Bounded q, k, v;
  if (has_oracle(c)) {
    const Bounded hidden = rmsnorm_bounded(block.x, block.norm, static_cast<double>(kEps), dtype);
    const Bounded all =
        linear_bounded(hidden, decoded(qkv, block.format), {}, c.width, dtype, dtype);
    const std::int64_t q_width = c.heads * c.head_size, kv_width = c.kv_heads * c.head_size;
    q = rope_bounded(columns(all, block.joined, 0, q_width), table, c.heads, c.head_size,
                     c.position, dtype);
    k = rope_bounded(columns(all, block.joined, q_width, kv_width), table, c.kv_heads, c.head_size,
                     c.position, dtype);
    v = columns(all, block.joined, q_width + kv_width, kv_width);
    const reference::AttentionInResult oracle = reference::attention_in(
        block.x, block.norm, static_cast<double>(kEps), decoded(qkv, block.format), table, c.heads,
        c.head_size, c.position);
    check_close("bounds against oracle", q.value, oracle.q, Values(q.value.size(), 1e-12));
    check_close("bounds against oracle", k.value, oracle.k, Values(k.value.size(), 1e-12));
    check_close("bounds against oracle", v.value, oracle.v, Values(v.value.size(), 1e-12));
  }
  // The cache as it must be afterwards, and how far off each element may be: 0 where not written.
  const auto cache_of = [&](const Bounded& rows) {
    Bounded cache = exact(held);
    reference::kv_append(cache.value, rows.value, c.kv_heads, c.head_size, c.position);
    reference::kv_append(cache.error, rows.error, c.kv_heads, c.head_size, c.position);
    return cache;
  };

  std::vector<Values> default_results;
  for (const bool default_body : {true, false}) {
    Guarded x(block.backend, dtype, {c.tokens, c.width}, block.x);
    Guarded q_out(block.backend, dtype, q_shape);
    Guarded k_cache(block.backend, dtype, cache_shape, held, kOddStrides);
    Guarded v_cache(block.backend, dtype, cache_shape, held);
    run(block.backend,
        AttentionInCall{.q = q_out,
                        .x = x,
                        .norm = norm,
                        .eps = kEps,
                        .qkv = weight,
                        .rope_table = table_tensor,
                        .position = position,
                        .k_cache = k_cache,
                        .v_cache = v_cache},
        default_body);
    const std::string what = block.name("attention_in", default_body);
    const std::vector<Values> results = {q_out.get(what), k_cache.get(what), v_cache.get(what)};
    check_equal(what + ": x", x.get(what), block.x);
    const double limit = fused_nmse(c.width, 4, dtype);
    if (has_oracle(c)) {
      const Bounded expected[] = {q, cache_of(k), cache_of(v)};
      for (std::size_t i = 0; i < 3; ++i) {
        check_close(what, results[i], expected[i].value, expected[i].error);
        check_nmse(what, results[i], expected[i].value, limit);
      }
    } else if (!default_body) {
      for (std::size_t i = 0; i < 3; ++i) check_nmse(what, results[i], default_results[i], limit);
    }
    default_results = results;
  }
}

void check_attention_out(const Block& block) {
  const cases::BlockCase& c = block.problem;
  const DType dtype = block.dtype;
  const std::int64_t inputs = c.heads * c.head_size;
  const HostMatrix output = scaled_matrix(dtype, c.width, inputs, 5);
  const UploadedWeight weight(block.backend, {output}, block.format);
  const Values heads = uniform(c.tokens * inputs, 6, dtype);
  const Guarded attention(block.backend, dtype, {c.tokens, inputs}, heads);
  Bounded expected;
  if (has_oracle(c)) {
    expected =
        linear_bounded(exact(heads), decoded(output, block.format), block.x, inputs, dtype, dtype);
    check_close("bounds against oracle", expected.value,
                reference::attention_out(block.x, heads, decoded(output, block.format), inputs),
                Values(expected.value.size(), 1e-12));
  }
  Values default_result;
  for (const bool default_body : {true, false}) {
    Guarded x(block.backend, dtype, {c.tokens, c.width}, block.x);
    run(block.backend, AttentionOutCall{.x = x, .attention = attention, .output = weight},
        default_body);
    const std::string what = block.name("attention_out", default_body);
    const Values result = x.get(what);
    const double limit = fused_nmse(inputs, 1, dtype);
    if (has_oracle(c)) {
      check_close(what, result, expected.value, expected.error);
      check_nmse(what, result, expected.value, limit);
    } else if (!default_body) {
      check_nmse(what, result, default_result, limit);
    }
    default_result = result;
  }
}

void check_feed_forward(const Block& block) {
  const cases::BlockCase& c = block.problem;
  const DType dtype = block.dtype;
  const HostMatrix gate = scaled_matrix(dtype, c.inner, c.width, 7);
  const HostMatrix up = scaled_matrix(dtype, c.inner, c.width, 8);
  const HostMatrix down = scaled_matrix(dtype, c.width, c.inner, 9);
  const UploadedWeight gate_up(block.backend, {gate, up}, block.format);
  const UploadedWeight down_weight(block.backend, {down}, block.format);
  const Guarded norm(block.backend, dtype, {c.width}, block.norm);
  Bounded expected;
  if (has_oracle(c)) {
    const Bounded hidden = rmsnorm_bounded(block.x, block.norm, static_cast<double>(kEps), dtype);
    Values joined = decoded(gate, block.format);
    for (const double value : decoded(up, block.format)) joined.push_back(value);
    const Bounded both = linear_bounded(hidden, joined, {}, c.width, dtype, dtype);
    const Bounded inner = silu_mul_bounded(columns(both, 2 * c.inner, 0, c.inner),
                                           columns(both, 2 * c.inner, c.inner, c.inner), dtype);
    expected = linear_bounded(inner, decoded(down, block.format), block.x, c.inner, dtype, dtype);
    check_close("bounds against oracle", expected.value,
                reference::feed_forward(block.x, block.norm, static_cast<double>(kEps), joined,
                                        decoded(down, block.format)),
                Values(expected.value.size(), 1e-12));
  }
  Values default_result;
  for (const bool default_body : {true, false}) {
    Guarded x(block.backend, dtype, {c.tokens, c.width}, block.x);
    run(block.backend,
        FeedForwardCall{.x = x, .norm = norm, .eps = kEps, .gate_up = gate_up, .down = down_weight},
        default_body);
    const std::string what = block.name("feed_forward", default_body);
    const Values result = x.get(what);
    const double limit = fused_nmse(c.width + c.inner, 6, dtype);
    if (has_oracle(c)) {
      check_close(what, result, expected.value, expected.error);
      check_nmse(what, result, expected.value, limit);
    } else if (!default_body) {
      check_nmse(what, result, default_result, limit);
    }
    default_result = result;
  }
}

template <typename Check>
void check_blocks(Check&& check, bool int8) {
  on_every_backend([&](Backend& backend) {
    for (const cases::BlockCase& problem : cases_for(backend, cases::block_cases())) {
      for (const DType dtype : cases::kFloatTypes) {
        if (!runs_in(backend, problem, dtype)) continue;
        check(Block(backend, problem, dtype, int8 ? QuantFormat::kInt8 : plain_format(dtype)));
      }
    }
  });
}

TEST_CASE("attention_in agrees with its oracle and its default body") {
  check_blocks(check_attention_in, false);
}

TEST_CASE("attention_out agrees with its oracle and its default body") {
  check_blocks(check_attention_out, false);
}

TEST_CASE("feed_forward agrees with its oracle and its default body") {
  check_blocks(check_feed_forward, false);
}

TEST_CASE("attention_in over int8 weights agrees with its oracle and its default body") {
  check_blocks(check_attention_in, true);
}

TEST_CASE("attention_out over int8 weights agrees with its oracle and its default body") {
  check_blocks(check_attention_out, true);
}

TEST_CASE("feed_forward over int8 weights agrees with its oracle and its default body") {
  check_blocks(check_feed_forward, true);
}

}  // namespace
}  // namespace engine::test
