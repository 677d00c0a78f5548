// How fast attention over many queries is, and that it repeats itself bit by bit. The timing is no
// check: it runs on request, kernels_test -ns -tc="attention speed*".
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <vector>

#include "kernels/measure.h"
#include "tests/support/backends.h"

namespace engine::test {
namespace {

struct Problem {
  std::int64_t tokens, heads, kv_heads, head_size, position;
  bool causal;
  std::int64_t window = 0;

  // Of the pairs that are seen: two products of head_size multiply-adds.
  double flops() const {
    double pairs = 0.0;
    for (std::int64_t t = 0; t < tokens; ++t) {
      std::int64_t seen = causal ? position + t + 1 : position + tokens;
      if (window > 0) seen = std::min(seen, window);
      pairs += static_cast<double>(seen);
    }
    return 4.0 * pairs * static_cast<double>(heads * head_size);
  }
};

// Operands of random normals on the device, dense.
struct Operands {
  Operands(Backend& on, const Problem& p, DType dtype)
      : backend(on),
        q(make({p.tokens, p.heads, p.head_size}, dtype, 1)),
        k(make({p.kv_heads, p.position + p.tokens, p.head_size}, dtype, 2)),
        v(make({p.kv_heads, p.position + p.tokens, p.head_size}, dtype, 3)),
        out(make({p.tokens, p.heads, p.head_size}, dtype, 4)),
        position(on.allocate(sizeof(std::int32_t))) {
    const auto start = static_cast<std::int32_t>(p.position);
    on.write(position.tensor(DType::kI32, {1}), &start);
    call = {.out = tensor(out, p.tokens, p.heads, p.head_size, dtype),
            .q = tensor(q, p.tokens, p.heads, p.head_size, dtype),
            .k_cache = tensor(k, p.kv_heads, p.position + p.tokens, p.head_size, dtype),
            .v_cache = tensor(v, p.kv_heads, p.position + p.tokens, p.head_size, dtype),
            .position = position.tensor(DType::kI32, {1}),
            .bound = p.position + p.tokens,
            .scale = 1.0f / std::sqrt(static_cast<float>(p.head_size)),
            .causal = p.causal,
            .window = p.window,
            .lse = {}};
  }
  Buffer make(Shape shape, DType dtype, std::uint64_t stream) {
    Buffer buffer = backend.allocate(static_cast<std::size_t>(shape.numel()) * dtype_size(dtype));
    backend.measure()->fill_normal(buffer.tensor(dtype, shape), 1.0f,
                                   {.seed = 7, .stream = stream});
    return buffer;
  }
  static Tensor tensor(Buffer& buffer, std::int64_t a, std::int64_t b, std::int64_t c,
                       DType dtype) {
    return buffer.tensor(dtype, {a, b, c});
  }

  Backend& backend;
  Buffer q, k, v, out, position;
  AttentionCall call;
};

TEST_CASE("attention of many queries repeats itself bit by bit") {
  on_every_backend([](Backend& backend) {
    if (backend.device().kind != DeviceKind::kCuda) return;
    for (const Problem& p :
         {Problem{300, 40, 8, 128, 100, true}, Problem{300, 40, 8, 64, 5, true}}) {
      Operands operands(backend, p, DType::kBF16);
      std::vector<std::uint8_t> first(operands.call.out.bytes()), again(first.size());
      backend.ops().attention(operands.call, Workspace{});
      backend.read(first.data(), operands.call.out);
      for (int i = 0; i < 250; ++i) {
        backend.ops().attention(operands.call, Workspace{});
        backend.read(again.data(), operands.call.out);
        REQUIRE(std::memcmp(first.data(), again.data(), first.size()) == 0);
      }
    }
  });
}

TEST_CASE("attention speed at prefill shapes" * doctest::skip()) {
  constexpr int kCalls = 10, kSamples = 7;
  constexpr Problem kProblems[] = {{512, 32, 32, 128, 0, true},    {2048, 32, 32, 128, 0, true},
                                   {4096, 32, 32, 128, 0, true},   {2048, 32, 8, 128, 2048, true},
                                   {4096, 256, 256, 128, 0, true}, {4096, 256, 256, 128, 0, false},
                                   {512, 32, 32, 64, 0, true},     {2048, 32, 32, 64, 0, true},
                                   {4096, 256, 256, 64, 0, true},  {4096, 256, 256, 64, 0, false},
                                   {4096, 16, 16, 192, 0, true},   {2048, 16, 8, 256, 0, true},
                                   {4096, 64, 64, 256, 0, false}};
  on_every_backend([&](Backend& backend) {
    if (backend.device().kind != DeviceKind::kCuda) return;
    for (const Problem& p : kProblems) {
      Operands operands(backend, p, DType::kBF16);
      std::vector<double> seconds;
      for (int i = 0; i <= kSamples; ++i) {
        const double time = backend.measure()->time([&] {
          for (int n = 0; n < kCalls; ++n) backend.ops().attention(operands.call, Workspace{});
        });
        if (i > 0) seconds.push_back(time / kCalls);
      }
      std::sort(seconds.begin(), seconds.end());
      std::printf("T %5d H %3d G %3d Dh %3d at %4d %-6s %9.1f us (%.1f to %.1f)  %6.1f TFLOP/s\n",
                  static_cast<int>(p.tokens), static_cast<int>(p.heads),
                  static_cast<int>(p.kv_heads), static_cast<int>(p.head_size),
                  static_cast<int>(p.position), p.causal ? "causal" : "full",
                  seconds[kSamples / 2] * 1e6, seconds.front() * 1e6, seconds.back() * 1e6,
                  p.flops() / seconds[kSamples / 2] * 1e-12);
    }
  });
}

}  // namespace
}  // namespace engine::test
