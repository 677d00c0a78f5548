// The keys and values of every layer, reserved up front.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "engine/model/config.h"
#include "engine/model/decoder.h"
#include "kernels/backend.h"

namespace engine {

// Owns one block of memory on the backend's device: per layer k (G, C, Dh), then v (G, C, Dh).
class KvCache {
 public:
  // Throws Error{kMemory}.
  KvCache(Backend& backend, const ModelConfig& config, DType dtype, std::int64_t capacity);

  static std::size_t bytes(const ModelConfig& config, DType dtype, std::int64_t capacity);

  std::span<const LayerCache> layers() const { return layers_; }
  std::int64_t capacity() const { return capacity_; }

 private:
  std::int64_t capacity_;
  Buffer memory_;
  std::vector<LayerCache> layers_;
};

}  // namespace engine
