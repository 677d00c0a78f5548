// How fast attention over batches is. The timing is no check: it runs on request, kernels_test -ns
// -tc="attention_batch speed*".
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <string>
#include <vector>

#include "kernels/measure.h"
#include "tests/support/backends.h"

namespace engine::test {
namespace {

struct Problem {
  std::int64_t batch, heads, length, head_size;
  ScoreKind kind = ScoreKind::kNoop;
};

// q, k, v and out as (B, S, H · Dh) seen as (B, S, H, Dh).
double microseconds(Backend& backend, const Problem& p) {
  constexpr int kSamples = 7;
  const Shape shape{p.batch, p.length, p.heads, p.head_size};
  std::vector<Buffer> memory;
  std::vector<Tensor> tensors;
  for (std::uint64_t i = 0; i < 4; ++i) {
    memory.push_back(backend.allocate(static_cast<std::size_t>(shape.numel()) * 2));
    tensors.push_back(memory.back().tensor(DType::kBF16, shape));
    backend.measure()->fill_normal(tensors.back(), 1.0f, {.seed = 7, .stream = i});
  }
  Buffer spans = backend.allocate(static_cast<std::size_t>(p.length) * 8);
  std::vector<std::int32_t> bounds;
  for (std::int64_t i = 0; i < p.length; ++i) {
    bounds.push_back(static_cast<std::int32_t>(i / 512 * 512));
    bounds.push_back(static_cast<std::int32_t>(i / 512 * 512 + 512));
  }
  backend.write(spans.tensor(DType::kI32, {p.length, 2}), bounds.data());
  const AttentionBatchCall call{
      .out = tensors[0],
      .q = tensors[1],
      .k = tensors[2],
      .v = tensors[3],
      .query_offsets = {},
      .key_offsets = {},
      .position = {},
      .scale = 1.0f / std::sqrt(static_cast<float>(p.head_size)),
      .score = {p.kind, 512, 30.0f, spans.tensor(DType::kI32, {p.length, 2})},
      .lse = {}};
  const double pairs = static_cast<double>(p.batch * p.heads * p.length * p.length);
  const int calls = pairs > 1e9 ? 3 : 20;
  std::vector<double> seconds;
  for (int i = 0; i <= kSamples; ++i) {
    const double time = backend.measure()->time([&] {
      for (int n = 0; n < calls; ++n) backend.ops().attention_batch(call, Workspace{});
    });
    if (i > 0) seconds.push_back(time / calls);
  }
  std::sort(seconds.begin(), seconds.end());
  return seconds[kSamples / 2] * 1e6;
}

TEST_CASE("attention_batch speed" * doctest::skip()) {
  std::vector<Problem> problems = {
      {2, 16, 512, 64},   {2, 16, 512, 128},  {8, 16, 1024, 64},   {8, 16, 1024, 128},
      {256, 32, 256, 16}, {16, 16, 4096, 32}, {16, 16, 4096, 192},
  };
  for (const std::int64_t head_size : {64, 128}) {
    for (const ScoreKind kind : kScoreKinds) problems.push_back({16, 16, 4096, head_size, kind});
  }
  on_every_backend([&](Backend& backend) {
    if (backend.device().kind != DeviceKind::kCuda) return;
    for (const Problem& p : problems) {
      const double us = microseconds(backend, p);
      const double pairs = static_cast<double>(p.batch * p.heads * p.length * p.length) *
                           (p.kind == ScoreKind::kCausal ? 0.5 : 1.0);
      std::printf("B %3d S %5d Dh %3d %-15s %9.1f us  %6.1f TFLOP/s\n", static_cast<int>(p.batch),
                  static_cast<int>(p.length), static_cast<int>(p.head_size),
                  std::string(score_name(p.kind)).c_str(), us,
                  4.0 * pairs * static_cast<double>(p.head_size) / us * 1e-6);
    }
  });
}

}  // namespace
}  // namespace engine::test
