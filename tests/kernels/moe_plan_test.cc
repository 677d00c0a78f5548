// Recorded steps with several mixtures behind each other, eager against replayed, bit for bit.
#include <memory>

#include "tests/support/backends.h"
#include "tests/support/closeness.h"
#include "tests/support/experts.h"
#include "tests/support/guarded.h"

namespace engine::test {
namespace {

constexpr int kLayers = 3;

struct Layers {
  Layers(Backend& on, const cases::MoeCase& c, DType type, QuantFormat format)
      : backend(on),
        problem(c),
        dtype(type),
        output(on, {scaled_matrix(type, c.width, c.width, 41)}, format),
        router(on, scaled_matrix(type, c.experts, c.width, 42)),
        gate_up(on, expert_matrices(type, c.experts, 2 * c.inner, c.width, 43), format),
        down(on, expert_matrices(type, c.experts, c.width, c.inner, 44), format),
        norm(on, type, {c.width}, uniform(c.width, 45, type, 0.5, 1.5)),
        x(on, type, {1, c.width}),
        attended(vectors(on, type, c.width)),
        scratch(on, [this](Ops& ops, Workspace ws) { run(ops, ws); }) {}

  static std::vector<Guarded> vectors(Backend& on, DType type, std::int64_t width) {
    std::vector<Guarded> all;
    for (int i = 0; i < kLayers; ++i) all.emplace_back(on, type, Shape{1, width});
    return all;
  }

  void set(std::uint64_t seed, double attention) {
    const std::int64_t width = problem.width;
    x.set(uniform(width, seed, dtype));
    for (Guarded& a : attended) a.set(uniform(width, ++seed, dtype, -attention, attention));
  }
  void run(Ops& ops, Workspace ws) {
    for (const Guarded& a : attended) {
      ops.attention_out({.x = x, .attention = a, .output = output}, ws);
      ops.moe_feed_forward({.x = x,
                            .norm = norm,
                            .router = router,
                            .gate_up = gate_up,
                            .down = down,
                            .experts = problem.experts,
                            .top_k = problem.top_k},
                           ws);
    }
  }

  Backend& backend;
  cases::MoeCase problem;
  DType dtype;
  UploadedWeight output, router, gate_up, down;
  Guarded norm, x;
  std::vector<Guarded> attended;
  GuardedWorkspace scratch;
};

void check_layers(Layers& layers) {
  const Workspace ws = layers.scratch.workspace();
  const std::unique_ptr<Plan> plan =
      layers.backend.record([&](Ops& recorded) { layers.run(recorded, ws); });
  for (std::uint64_t trial = 0; trial < 12; ++trial) {
    const double attention = trial % 2 == 0 ? 0.1 : 8.0;  // routes as before, or others
    layers.set(100 * trial + 1, attention);
    layers.run(layers.backend.ops(), ws);
    const Values eager = layers.x.get("x");
    layers.set(100 * trial + 1, attention);
    plan->run();
    check_equal(
        concat("layers of mixtures ", layers.problem.name(), " ", layers.dtype, " trial ", trial),
        layers.x.get("x"), eager);
  }
  layers.scratch.check("scratch of mixtures");
}

TEST_CASE("mixtures behind each other in a plan are bitwise the eager ones") {
  constexpr cases::MoeCase kCases[] = {
      {1, 8, 2, 64, 96}, {1, 5, 3, 172, 88}, {1, 8, 1, 256, 344}, {1, 8, 2, 1024, 2816}};
  on_every_backend([&](Backend& backend) {
    for (const cases::MoeCase& problem : kCases) {
      if (problem.width > 256 && backend.device().kind == DeviceKind::kCpu) continue;
      for (const DType dtype : {DType::kF16, DType::kBF16}) {
        for (const QuantFormat format : {plain_format(dtype), QuantFormat::kInt8}) {
          Layers layers(backend, problem, dtype, format);
          check_layers(layers);
        }
      }
    }
  });
}

}  // namespace
}  // namespace engine::test
