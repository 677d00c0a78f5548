// Weights made on the device from a seed.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "engine/io/weight_binder.h"
#include "kernels/backend.h"
#include "kernels/measure.h"

namespace engine::bench {

class SyntheticBinder final : public WeightBinder {
 public:
  static constexpr float kSigma = 0.02f;

  // Values are made as `dtype`; linear weights are then stored in `linear`.
  SyntheticBinder(DType dtype, QuantFormat linear) : WeightBinder(dtype, linear), dtype_(dtype) {}

  // Nothing is there, so a model asks for its tensors one by one.
  void ignore(const std::string&) override {}
  bool has(const std::string&) const override { return false; }

  // The most bytes that a matrix takes as it is made, beside the weights.
  std::size_t staging_bytes() const;

  struct Made {
    std::vector<Buffer> memory;
    double pack_s = 0;  // from matrices in their stored type to weights: quantising and packing
  };
  // Makes matrices N(0, kSigma²) and vectors of ones, each from numbers of its own, and fills in
  // what was declared. Throws Error{kMemory}, and Interrupted where `interrupt` becomes true.
  Made make(Backend& backend, Measure& measure, std::uint64_t seed,
            const std::atomic<bool>* interrupt) const;

 private:
  void require(const std::string&, const std::vector<std::int64_t>&) override {}

  DType dtype_;
};

}  // namespace engine::bench
