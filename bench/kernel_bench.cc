#include "bench/kernel_bench.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <utility>

#include "kernels/core/check.h"

namespace engine::bench {

using reference::Values;

KernelBench::KernelBench(const RunContext& context, const BenchFlags& flags)
    : context_(context),
      flags_(flags),
      backend_(make_backend(context.device, context.backend)),
      measure_(backend_->measure()) {}

Tensor KernelBench::empty(DType dtype, Shape shape) {
  memory_.push_back(
      backend_->allocate(static_cast<std::size_t>(shape.numel()) * dtype_size(dtype)));
  return memory_.back().tensor(dtype, shape);
}

Tensor KernelBench::normal(DType dtype, Shape shape, float sigma) {
  const Tensor tensor = empty(dtype, shape);
  measure_->fill_normal(tensor, sigma, {.seed = flags_.seed, .stream = stream_++});
  return tensor;
}

Tensor KernelBench::constant(DType dtype, Shape shape, float value) {
  const Tensor tensor = empty(dtype, shape);
  measure_->fill_constant(tensor, value);
  return tensor;
}

Tensor KernelBench::bytes(std::int64_t rows, std::int64_t columns) {
  const Tensor tensor = empty(DType::kU8, {rows, columns});
  // Normal values as f16: every byte of theirs is as good as another.
  const Tensor as_half = Tensor::contiguous(tensor.data, DType::kF16, tensor.device,
                                            {tensor.numel() / static_cast<std::int64_t>(2)});
  measure_->fill_normal(as_half, 1.0f, {.seed = flags_.seed, .stream = stream_++});
  return tensor;
}

Values KernelBench::rows(const Tensor& tensor, std::int64_t first, std::int64_t count) {
  const Tensor part = tensor.rank() == 1 ? tensor : tensor.slice(0, first, count);
  std::vector<std::byte> raw(part.bytes());
  backend_->read(raw.data(), part);
  Values values(static_cast<std::size_t>(part.numel()));
  for (std::size_t i = 0; i < values.size(); ++i) {
    const std::byte* at = raw.data() + i * dtype_size(part.dtype);
    std::uint16_t half = 0;
    float single = 0;
    std::int8_t byte = 0;
    switch (part.dtype) {
      case DType::kBF16:
        std::memcpy(&half, at, sizeof(half));
        values[i] = static_cast<double>(bf16_to_float(half));
        break;
      case DType::kF32:
        std::memcpy(&single, at, sizeof(single));
        values[i] = static_cast<double>(single);
        break;
      default:
        std::memcpy(&byte, at, sizeof(byte));
        values[i] = static_cast<double>(byte);
    }
  }
  return values;
}

void KernelBench::verify(const std::string& what, const Values& found, const Values& expected,
                         double limit) {
  ENGINE_REQUIRE(found.size() == expected.size(), what, ": ", found.size(), " results, expected ",
                 expected.size());
  double error = 0, power = 0;
  for (std::size_t i = 0; i < found.size(); ++i) {
    error += (found[i] - expected[i]) * (found[i] - expected[i]);
    power += expected[i] * expected[i];
  }
  const double relative = std::sqrt(error / power);
  ENGINE_CHECK(relative <= limit, ErrorKind::kNumeric, what, ": differs from its oracle by ",
               relative, " of its norm, expected at most ", limit);
}

int KernelBench::sets_for(std::size_t bytes) {
  if (!flags_.steady) return 1;
  constexpr std::size_t kMost = 256;
  const std::size_t wanted = 3 * measure_->cache_bytes() / std::max<std::size_t>(bytes, 1) + 1;
  return static_cast<int>(std::clamp<std::size_t>(wanted, 2, kMost));
}

Timing KernelBench::time(const std::function<void(Ops&, int)>& issue, int sets) {
  context_.poll();
  const int samples = static_cast<int>(std::max<std::int64_t>(kKernelSamples, flags_.samples));
  if (!flags_.steady) {
    return time_cold(
        *measure_, [&] { issue(backend_->ops(), 0); }, samples);
  }
  const std::unique_ptr<Plan> plan = backend_->record([&](Ops& ops) {
    for (int set = 0; set < sets; ++set) issue(ops, set);
  });
  Timing timing = time_warm(
      *measure_, [&] { plan->run(); }, samples, kWarmUps);
  for (double& seconds : timing.seconds) seconds /= sets;
  return timing;
}

Result KernelBench::result(const std::string& name, const std::string& metric,
                           const std::string& dtype, std::vector<double> values,
                           const Telemetry& telemetry, const std::string& size) {
  Result row = context_.row(name, metric, dtype);
  row.actual = median(values);
  row.values = std::move(values);
  row.telemetry = telemetry;
  row.columns = {{"size", size},
                 {"timing", std::string(flags_.steady ? "steady" : "cold")},
                 {"commit", context_.commit}};
  return row;
}

}  // namespace engine::bench
