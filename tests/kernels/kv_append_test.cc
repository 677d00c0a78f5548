#include "kernels/cases/cases.h"
#include "tests/support/backends.h"
#include "tests/support/closeness.h"
#include "tests/support/guarded.h"

namespace engine::test {
namespace {

TEST_CASE("kv_append copies exactly, and only rows below the capacity") {
  on_every_backend([](Backend& backend) {
    for (const cases::KvAppendCase& problem : cases::kv_append_cases()) {
      for (const DType dtype : cases::kFloatTypes) {
        const Shape rows = {problem.tokens, problem.kv_heads, problem.head_size};
        const Shape cache = {problem.kv_heads, problem.capacity, problem.head_size};
        const Values k = uniform(rows.numel(), 1, dtype), v = uniform(rows.numel(), 2, dtype);
        const Guarded position(backend, DType::kI32, {1},
                               Values{static_cast<double>(problem.position)});
        for (const Layout& layout : {kDense, kOddStrides, kWideStrides}) {
          Values expected_k = uniform(cache.numel(), 3, dtype);
          Values expected_v = uniform(cache.numel(), 4, dtype);
          const Guarded k_tensor(backend, dtype, rows, k, layout);
          const Guarded v_tensor(backend, dtype, rows, v, layout);
          Guarded k_cache(backend, dtype, cache, expected_k, layout);
          Guarded v_cache(backend, dtype, cache, expected_v, layout);
          backend.ops().kv_append({.k_cache = k_cache,
                                   .v_cache = v_cache,
                                   .k = k_tensor,
                                   .v = v_tensor,
                                   .position = position});
          reference::kv_append(expected_k, k, problem.kv_heads, problem.head_size,
                               problem.position);
          reference::kv_append(expected_v, v, problem.kv_heads, problem.head_size,
                               problem.position);
          const std::string what = concat("kv_append ", problem.name(), " ", dtype);
          check_equal(what + " k", k_cache.get(what), expected_k);
          check_equal(what + " v", v_cache.get(what), expected_v);
        }
      }
    }
  });
}

TEST_CASE("kv_append carries the bits of NaN, infinity and subnormals") {
  on_every_backend([](Backend& backend) {
    for (const DType dtype : cases::kFloatTypes) {
      const double tiny = dtype == DType::kF16 ? 0x1p-24 : 0x1p-133;
      const Guarded k(backend, dtype, {1, 1, 4}, Values{kNan, kInfinity, tiny, -kInfinity});
      const Guarded v(backend, dtype, {1, 1, 4}, Values{-tiny, 1, kNan, -0.0});
      const Guarded position(backend, DType::kI32, {1}, Values{1});
      const Values zeros(8, 0.0);
      Guarded k_cache(backend, dtype, {1, 2, 4}, zeros), v_cache(backend, dtype, {1, 2, 4}, zeros);
      backend.ops().kv_append(
          {.k_cache = k_cache, .v_cache = v_cache, .k = k, .v = v, .position = position});
      check_equal("k", k_cache.get("k"), {0, 0, 0, 0, kNan, kInfinity, tiny, -kInfinity});
      check_equal("v", v_cache.get("v"), {0, 0, 0, 0, -tiny, 1, kNan, 0});
    }
  });
}

TEST_CASE("kv_append at a position past the capacity writes nothing") {
  on_every_backend([](Backend& backend) {
    for (const double start : {4.0, 5.0, 2147483646.0}) {
      const Values rows = uniform(3 * 2 * 8, 1, DType::kF32),
                   held = uniform(2 * 4 * 8, 2, DType::kF32);
      const Guarded k(backend, DType::kF32, {3, 2, 8}, rows),
          v(backend, DType::kF32, {3, 2, 8}, rows);
      const Guarded position(backend, DType::kI32, {1}, Values{start});
      Guarded k_cache(backend, DType::kF32, {2, 4, 8}, held);
      Guarded v_cache(backend, DType::kF32, {2, 4, 8}, held);
      backend.ops().kv_append(
          {.k_cache = k_cache, .v_cache = v_cache, .k = k, .v = v, .position = position});
      check_equal("k", k_cache.get("k"), held);
      check_equal("v", v_cache.get("v"), held);
    }
  });
}

}  // namespace
}  // namespace engine::test
