// Recorded steps: a block of a decoder and its sampling, eager against replayed, bit for bit.
#include <memory>

#include "tests/support/backends.h"
#include "tests/support/closeness.h"
#include "tests/support/guarded.h"
#include "tests/support/weights.h"

namespace engine::test {
namespace {

constexpr std::int64_t kWidth = 64, kHeads = 4, kKvHeads = 2, kHeadSize = 24, kInner = 172;
constexpr std::int64_t kVocabulary = 97, kCapacity = 300;

// Everything that a one-layer model's step touches, at fixed addresses.
struct Model {
  Model(Backend& on, DType type, std::int64_t step_tokens)
      : backend(on),
        dtype(type),
        tokens(step_tokens),
        table(on, random_matrix(type, kVocabulary, kWidth, 1)),
        qkv(on, scaled_matrix(type, (kHeads + 2 * kKvHeads) * kHeadSize, kWidth, 2)),
        output(on, scaled_matrix(type, kWidth, kHeads * kHeadSize, 3)),
        gate_up(on, scaled_matrix(type, 2 * kInner, kWidth, 4)),
        down(on, scaled_matrix(type, kWidth, kInner, 5)),
        head(on, scaled_matrix(type, kVocabulary, kWidth, 6)),
        norm(on, type, {kWidth}, uniform(kWidth, 7, type, 0.5, 1.5)),
        rope(on, DType::kF32, {kCapacity, kHeadSize},
             uniform(kCapacity * kHeadSize, 8, DType::kF32)),
        k_cache(on, type, {kKvHeads, kCapacity, kHeadSize}),
        v_cache(on, type, {kKvHeads, kCapacity, kHeadSize}),
        x(on, type, {step_tokens, kWidth}),
        normed(on, type, {step_tokens, kWidth}),
        q(on, type, {step_tokens, kHeads, kHeadSize}),
        attended(on, type, {step_tokens, kHeads, kHeadSize}),
        logits(on, DType::kF32, {step_tokens, kVocabulary}),
        ids(on, DType::kI32, {step_tokens}),
        position(on, DType::kI32, {1}),
        params(on, DType::kU8, {static_cast<std::int64_t>(sizeof(SamplingParams))}),
        seen(on, DType::kU8, {kVocabulary}),
        sampled(on, DType::kI32, {2}),
        scratch(on, [this](Ops& ops, Workspace ws) { step(ops, ws); }) {}

  void step(Ops& ops, Workspace ws) {
    ops.embed({.out = x, .table = table, .ids = ids});
    ops.attention_in({.q = q,
                      .x = x,
                      .norm = norm,
                      .qkv = qkv,
                      .rope_table = rope,
                      .position = position,
                      .k_cache = k_cache,
                      .v_cache = v_cache},
                     ws);
    ops.attention({.out = attended,
                   .q = q,
                   .k_cache = k_cache,
                   .v_cache = v_cache,
                   .position = position,
                   .bound = kCapacity,
                   .scale = 0.2f,
                   .lse = {}},
                  ws);
    ops.attention_out({.x = x,
                       .attention = attended.tensor().reshape({tokens, kHeads * kHeadSize}),
                       .output = output},
                      ws);
    ops.feed_forward({.x = x, .norm = norm, .gate_up = gate_up, .down = down}, ws);
    ops.rmsnorm({.out = normed, .x = x, .weight = norm});
    ops.linear({.out = logits, .x = normed, .weight = head, .residual = {}}, ws);
    ops.sample({.logits = logits.tensor().slice(0, tokens - 1, 1).reshape({kVocabulary}),
                .params = params,
                .seen = seen,
                .position = position,
                .next_ids = ids,
                .sampled = sampled,
                .advance = static_cast<std::int32_t>(tokens)});
  }

  // The state that a run starts from.
  void reset() {
    k_cache.set(uniform(kKvHeads * kCapacity * kHeadSize, 9, dtype));
    v_cache.set(uniform(kKvHeads * kCapacity * kHeadSize, 10, dtype));
    Values first;
    for (std::int64_t t = 0; t < tokens; ++t) first.push_back(static_cast<double>(5 * t % 97));
    ids.set(first);
    position.set({17});
    seen.set(Values(kVocabulary, 0.0));
    const SamplingParams chosen{
        .seed = 77, .temperature = 1.0f, .top_p = 0.95f, .repetition_penalty = 1.1f, .top_k = 50};
    Values raw;
    for (std::size_t i = 0; i < sizeof(chosen); ++i) {
      raw.push_back(static_cast<double>(reinterpret_cast<const unsigned char*>(&chosen)[i]));
    }
    params.set(raw);
  }

  // Logits and ids of `steps` steps in a row, issued by `issue`; then the caches.
  template <typename Issue>
  Values run(int steps, Issue&& issue) {
    reset();
    Values trace;
    for (int i = 0; i < steps; ++i) {
      issue();
      for (Guarded* part : {&logits, &sampled, &x, &position, &ids}) {
        for (const double value : part->get("step")) trace.push_back(value);
      }
    }
    for (Guarded* part : {&k_cache, &v_cache, &seen}) {
      for (const double value : part->get("step")) trace.push_back(value);
    }
    scratch.check("scratch of a step");
    return trace;
  }

  Backend& backend;
  DType dtype;
  std::int64_t tokens;
  UploadedWeight table, qkv, output, gate_up, down, head;
  Guarded norm, rope, k_cache, v_cache, x, normed, q, attended, logits, ids, position, params, seen,
      sampled;
  GuardedWorkspace scratch;
};

TEST_CASE("a replayed step is bitwise the eager one, step after step") {
  on_every_backend([](Backend& backend) {
    for (const DType dtype : {DType::kF32, DType::kF16, DType::kBF16}) {
      for (const std::int64_t tokens : {1, 2, 7}) {
        Model model(backend, dtype, tokens);
        const int steps = tokens == 1 ? 40 : 6;
        const Values eager =
            model.run(steps, [&] { model.step(backend.ops(), model.scratch.workspace()); });
        const std::unique_ptr<Plan> plan =
            backend.record([&](Ops& ops) { model.step(ops, model.scratch.workspace()); });
        const Values replayed = model.run(steps, [&] { plan->run(); });
        check_equal(concat("replay ", dtype, " T", tokens), replayed, eager);
        const Values again = model.run(steps, [&] { plan->run(); });
        check_equal(concat("second replay ", dtype, " T", tokens), again, eager);
      }
    }
  });
}

TEST_CASE("a replayed norm and linears of int8 weights behind it are bitwise the eager ones") {
  on_every_backend([](Backend& backend) {
    for (const DType dtype : {DType::kF16, DType::kBF16}) {
      for (const std::int64_t width : {64, 4096, 4352}) {
        constexpr std::int64_t kRows = 48;
        const Guarded x(backend, dtype, {1, width}, uniform(width, 11, dtype, -3.0, 3.0));
        const Guarded weight(backend, dtype, {width}, uniform(width, 12, dtype, 0.5, 1.5));
        const UploadedWeight head(backend, {random_matrix(dtype, kRows, width, 13)},
                                  QuantFormat::kInt8);
        // So wide that a launch with it has few slots in its ring.
        constexpr std::int64_t kWide = 28672;
        const Guarded wide_x(backend, dtype, {1, kWide}, uniform(kWide, 15, dtype));
        const UploadedWeight wide(backend, {random_matrix(dtype, 16, kWide, 16)},
                                  QuantFormat::kInt8);
        Guarded wide_out(backend, DType::kF32, {1, 16});
        const Guarded residual(backend, DType::kF32, {1, kRows}, uniform(kRows, 14, DType::kF32));
        Guarded normed(backend, dtype, {1, width}), logits(backend, DType::kF32, {1, kRows}),
            added(backend, DType::kF32, {1, kRows});
        const auto step = [&](Ops& ops, Workspace ws) {
          ops.rmsnorm({.out = normed, .x = x, .weight = weight});
          ops.linear({.out = logits, .x = normed, .weight = head, .residual = {}}, ws);
          ops.rmsnorm({.out = normed, .x = x, .weight = weight});
          ops.linear({.out = added, .x = normed, .weight = head, .residual = residual}, ws);
          ops.linear({.out = wide_out, .x = wide_x, .weight = wide, .residual = {}}, ws);
        };
        GuardedWorkspace scratch(backend, step);
        step(backend.ops(), scratch.workspace());
        const Values eager = logits.get("logits"), sum = added.get("added");
        backend.record([&](Ops& ops) { step(ops, scratch.workspace()); })->run();
        check_equal(concat("logits ", dtype, " K", width), logits.get("logits"), eager);
        check_equal(concat("added ", dtype, " K", width), added.get("added"), sum);
      }
    }
  });
}

TEST_CASE("recording executes nothing") {
  on_every_backend([](Backend& backend) {
    Guarded a(backend, DType::kF32, {3, 5}, Values(15, 1.0));
    const Guarded b(backend, DType::kF32, {3, 5}, Values(15, 2.0));
    const auto plan = backend.record([&](Ops& ops) { ops.add({.out = a, .a = a, .b = b}); });
    check_equal("recorded", a.get("a"), Values(15, 1.0));
    plan->run();
    plan->run();
    check_equal("run twice", a.get("a"), Values(15, 5.0));
  });
}

TEST_CASE("a plan outlives the step that made it and another plan") {
  on_every_backend([](Backend& backend) {
    Guarded a(backend, DType::kF32, {2, 4}, Values(8, 1.0));
    const Guarded b(backend, DType::kF32, {2, 4}, Values(8, 10.0));
    auto first = backend.record([&](Ops& ops) { ops.add({.out = a, .a = a, .b = b}); });
    auto second = backend.record([&](Ops& ops) {
      ops.add({.out = a, .a = a, .b = a});
      ops.add({.out = a, .a = a, .b = b});
    });
    second->run();
    first->run();
    second.reset();
    first->run();
    check_equal("plans", a.get("a"), Values(8, 32.0));
  });
}

TEST_CASE("host work while recording throws, and the backend works afterwards") {
  on_every_backend([](Backend& backend) {
    Guarded a(backend, DType::kF32, {2, 4}, Values(8, 1.0));
    float host[8];
    const auto expect_internal = [&](const char* what, auto&& body) {
      CAPTURE(what);
      try {
        backend.record([&](Ops&) { body(); });
        FAIL_CHECK("recording took it");
      } catch (const Error& error) {
        CHECK(error.kind() == ErrorKind::kInternal);
      }
    };
    expect_internal("allocate", [&] { backend.allocate(16); });
    expect_internal("read", [&] { backend.read(host, a); });
    expect_internal("write", [&] { backend.write(a, host); });
    expect_internal("synchronize", [&] { backend.synchronize(); });

    backend.ops().add({.out = a, .a = a, .b = a});
    check_equal("afterwards", a.get("a"), Values(8, 2.0));
    const auto plan = backend.record([&](Ops& ops) { ops.add({.out = a, .a = a, .b = a}); });
    plan->run();
    check_equal("a plan afterwards", a.get("a"), Values(8, 4.0));
  });
}

TEST_CASE("a bad call while recording throws and leaves the backend usable") {
  on_every_backend([](Backend& backend) {
    Guarded a(backend, DType::kF32, {2, 4}, Values(8, 1.0));
    const Guarded wrong(backend, DType::kF32, {2, 5}, Values(10, 1.0));
    CHECK_THROWS_AS(backend.record([&](Ops& ops) { ops.add({.out = a, .a = a, .b = wrong}); }),
                    Error);
    CHECK_THROWS_AS(backend.ops().add({.out = a, .a = a, .b = wrong}), Error);
    backend.ops().add({.out = a, .a = a, .b = a});
    check_equal("afterwards", a.get("a"), Values(8, 2.0));
  });
}

}  // namespace
}  // namespace engine::test
