#include "engine/runtime/kv_cache.h"

#include "kernels/core/check.h"

namespace engine {
namespace {

std::size_t layer_bytes(const ModelConfig& config, DType dtype, std::int64_t capacity) {
  const std::int64_t elements =
      checked_mul(checked_mul(config.kv_heads, capacity, "KV cache"), config.head_dim, "KV cache");
  const auto bytes = checked_mul(static_cast<std::size_t>(elements), dtype_size(dtype), "KV cache");
  // Each of k and v starts on the alignment that vector loads and bulk copies want.
  return checked_add(bytes, Workspace::kAlignment - 1, "KV cache") / Workspace::kAlignment *
         Workspace::kAlignment;
}

}  // namespace

std::size_t KvCache::bytes(const ModelConfig& config, DType dtype, std::int64_t capacity) {
  return checked_mul(static_cast<std::size_t>(2 * config.layers),
                     layer_bytes(config, dtype, capacity), "KV cache");
}

KvCache::KvCache(Backend& backend, const ModelConfig& config, DType dtype, std::int64_t capacity)
    : capacity_(capacity), memory_(backend.allocate(bytes(config, dtype, capacity))) {
  const Shape shape = {config.kv_heads, capacity, config.head_dim};
  const std::size_t stride = layer_bytes(config, dtype, capacity);
  for (std::size_t layer = 0; layer < static_cast<std::size_t>(config.layers); ++layer) {
    layers_.push_back({.k = memory_.tensor(dtype, shape, 2 * layer * stride),
                       .v = memory_.tensor(dtype, shape, (2 * layer + 1) * stride)});
  }
}

}  // namespace engine
