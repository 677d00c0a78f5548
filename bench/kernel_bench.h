// What the kernel experiments share: operands on a device, the comparison with an oracle, timing.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "bench/harness.h"
#include "bench/options.h"
#include "bench/run_context.h"
#include "kernels/reference/reference.h"

namespace engine::bench {

// A backend with seeded random operands. Used by one thread.
class KernelBench {
 public:
  KernelBench(const RunContext& context, const BenchFlags& flags);

  Backend& backend() { return *backend_; }
  Measure& measure() { return *measure_; }
  bool cuda() const { return context_.device.kind == DeviceKind::kCuda; }

  // A dense tensor of sigma · normal values around `centre` (0, or a constant where sigma is 0).
  Tensor normal(DType dtype, Shape shape, float sigma);
  Tensor constant(DType dtype, Shape shape, float value);
  // Raw int8: the bytes of random numbers.
  Tensor bytes(std::int64_t rows, std::int64_t columns);
  Tensor empty(DType dtype, Shape shape);
  // Gives back everything that was made so far.
  void clear() { memory_.clear(); }

  // Rows [first, first + count) of a (rows, columns) tensor as doubles; kU8 counts as int8.
  reference::Values rows(const Tensor& tensor, std::int64_t first, std::int64_t count);
  // Throws Error{kNumeric} unless ‖found − expected‖ ≤ limit · ‖expected‖.
  static void verify(const std::string& what, const reference::Values& found,
                     const reference::Values& expected, double limit);

  // Times `issue(set)`: cold calls of set 0, or with --steady a recorded step of `sets` of them.
  Timing time(const std::function<void(Ops&, int set)>& issue, int sets);
  // Sets of `bytes` bytes that make up three times the cache; 1 unless --steady.
  int sets_for(std::size_t bytes);

  // A row; `values` in the metric's unit.
  Result result(const std::string& name, const std::string& metric, const std::string& dtype,
                std::vector<double> values, const Telemetry& telemetry, const std::string& size);

 private:
  const RunContext& context_;
  const BenchFlags& flags_;
  std::unique_ptr<Backend> backend_;
  std::unique_ptr<Measure> measure_;
  std::vector<Buffer> memory_;
  std::uint64_t stream_ = 0;
};

}  // namespace engine::bench
