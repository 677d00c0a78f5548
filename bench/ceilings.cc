#include "bench/ceilings.h"

#include <algorithm>
#include <array>
#include <memory>
#include <string>
#include <utility>

#include "bench/run_context.h"
#include "kernels/core/check.h"

namespace engine::bench {
namespace {

constexpr std::size_t kMiB = std::size_t{1} << 20;
constexpr std::size_t kGiB = std::size_t{1} << 30;
constexpr std::array<std::size_t, 7> kColdMiB = {2, 16, 32, 64, 128, 256, 512};
constexpr int kStreamSamples = 10;
constexpr int kStreamWarmUps = 2;

// The sizes that suit a device: gigabytes pass through an accelerator in milliseconds.
struct Sizes {
  std::size_t stream;             // bytes, far beyond every cache
  std::vector<std::size_t> cold;  // bytes
  std::int64_t rows, width;       // of the product (rows, width) · (width, width)ᵀ
  int product_samples;
};

Sizes sizes_for(const Backend& backend) {
  Sizes sizes = backend.device().kind == DeviceKind::kCuda
                    ? Sizes{6 * kGiB, {}, 8192, 8192, kKernelSamples}
                    : Sizes{kGiB, {}, 512, 4096, 5};
  sizes.stream = std::min(sizes.stream, backend.memory().free / 4 / kMiB * kMiB);
  for (const std::size_t mib : kColdMiB) {
    if (mib * kMiB <= sizes.stream) sizes.cold.push_back(mib * kMiB);
  }
  ENGINE_CHECK(!sizes.cold.empty(), ErrorKind::kMemory, to_string(backend.device()), ": need ",
               8 * kMiB, " bytes to measure a ceiling, ", backend.memory().free, " are free");
  return sizes;
}

// A device with memory to stream over.
class Stream {
 public:
  Stream(Device device, const BackendOptions& options)
      : backend_(make_backend(device, options)),
        sizes_(sizes_for(*backend_)),
        measure_(backend_->measure()),
        memory_(backend_->allocate(sizes_.stream)) {
    measure_->fill_constant(
        memory_.tensor(DType::kF32, {static_cast<std::int64_t>(sizes_.stream / sizeof(float))}),
        1.0f);
    backend_->synchronize();
  }

  const Sizes& sizes() const { return sizes_; }

  Timing read_all() {
    const Tensor all = bytes(0, sizes_.stream);
    return time_warm(
        *measure_, [&] { measure_->read(all); }, kStreamSamples, kStreamWarmUps);
  }
  // Device seconds of one pass.
  double read_once() {
    const Tensor all = bytes(0, sizes_.stream);
    return measure_->time([&] { measure_->read(all); });
  }
  Timing read_cold(std::size_t size) {
    const Tensor part = bytes(0, size);
    return time_cold(*measure_, [&] { measure_->read(part); });
  }
  // Half of the memory to the other half.
  Timing copy() {
    const std::size_t half = sizes_.stream / 2 / kMiB * kMiB;
    const Tensor from = bytes(0, half), to = bytes(half, half);
    return time_warm(
        *measure_, [&] { measure_->copy(to, from); }, kStreamSamples, kStreamWarmUps);
  }
  std::size_t copied_bytes() const { return 2 * (sizes_.stream / 2 / kMiB * kMiB); }

 private:
  Tensor bytes(std::size_t offset, std::size_t size) const {
    return memory_.tensor(DType::kU8, {static_cast<std::int64_t>(size)}, offset);
  }

  std::unique_ptr<Backend> backend_;
  Sizes sizes_;
  std::unique_ptr<Measure> measure_;
  Buffer memory_;
};

Timing time_product(Backend& backend, const Sizes& sizes) {
  const std::unique_ptr<Measure> measure = backend.measure();
  const auto elements = [](std::int64_t a, std::int64_t b) {
    return static_cast<std::size_t>(a * b) * dtype_size(DType::kBF16);
  };
  Buffer x_memory = backend.allocate(elements(sizes.rows, sizes.width));
  Buffer out_memory = backend.allocate(elements(sizes.rows, sizes.width));
  Buffer w_memory = backend.allocate(elements(sizes.width, sizes.width));
  const Tensor x = x_memory.tensor(DType::kBF16, {sizes.rows, sizes.width});
  const Tensor out = out_memory.tensor(DType::kBF16, {sizes.rows, sizes.width});
  measure->fill_normal(x, 1.0f, {.seed = 1, .stream = 0});
  measure->fill_normal(w_memory.tensor(DType::kBF16, {sizes.width, sizes.width}), 0.02f,
                       {.seed = 1, .stream = 1});
  const PackedWeight w = backend.pack("the matrix of a product", std::move(w_memory), DType::kBF16,
                                      sizes.width, sizes.width, QuantFormat::kBF16);
  const LinearCall call = {.out = out, .x = x, .weight = w.weight, .residual = {}};
  const std::size_t bytes =
      backend.workspace_bytes([&](Ops& ops, Workspace scratch) { ops.linear(call, scratch); });
  const Buffer scratch = backend.allocate(bytes);
  return time_warm(
      *measure,
      [&] {
        backend.ops().linear(call, {scratch.data(), bytes, backend.device()});
      },
      sizes.product_samples, kStreamWarmUps);
}

std::vector<double> rates(const Timing& timing, double amount) {
  std::vector<double> values;
  for (const double seconds : timing.seconds) values.push_back(amount / seconds);
  return values;
}

double gigabytes(std::size_t bytes) { return static_cast<double>(bytes) * 1e-9; }

}  // namespace

class ReadBeside::Source : public Stream {
 public:
  using Stream::Stream;
};

ReadBeside::ReadBeside(Device device, const BackendOptions& options)
    : source_(std::make_unique<Source>(device, options)) {
  source_->read_once();  // a warm-up
}
ReadBeside::~ReadBeside() = default;

double ReadBeside::read() {
  const double seconds = source_->read_once();
  seconds_ += seconds;
  gigabytes_ += gigabytes(source_->sizes().stream);
  return seconds;
}

double ReadBeside::gb_per_s() {
  if (seconds_ == 0.0) read();
  return gigabytes_ / seconds_;
}

const Ceilings::Measured& Ceilings::read() {
  if (!read_) {
    Stream stream(device_, options_);
    const Timing timing = stream.read_all();
    read_ = {rates(timing, gigabytes(stream.sizes().stream)), timing.telemetry};
  }
  return *read_;
}

const Ceilings::Measured& Ceilings::product() {
  if (!product_) {
    const std::unique_ptr<Backend> backend = make_backend(device_, options_);
    const Sizes sizes = sizes_for(*backend);
    const Timing timing = time_product(*backend, sizes);
    const double flops = 2.0 * static_cast<double>(sizes.rows) * static_cast<double>(sizes.width) *
                         static_cast<double>(sizes.width);
    const double bytes = static_cast<double>(dtype_size(DType::kBF16)) *
                         static_cast<double>(2 * sizes.rows + sizes.width) *
                         static_cast<double>(sizes.width);
    product_ = {rates(timing, flops * 1e-12), timing.telemetry, flops, bytes};
  }
  return *product_;
}

double Ceilings::read_gb_per_s() { return median(read().values); }
double Ceilings::product_tflops() { return median(product().values); }

std::vector<Result> run_ceilings(const RunContext& context) {
  std::vector<Result> results;
  const auto add = [&](const std::string& metric, const std::string& dtype,
                       std::vector<double> values, const Telemetry& telemetry, double ceiling) {
    Result result = context.row("ceilings", metric, dtype);
    result.values = std::move(values);
    result.actual = median(result.values);
    result.telemetry = telemetry;
    result.ceiling = ceiling;
    result.columns = {{"commit", context.commit}};
    results.push_back(std::move(result));
  };
  const Ceilings::Measured& read = context.ceilings->read();
  const double stream_rate = median(read.values);
  add("read_stream(GB/s)", "uint8", read.values, read.telemetry, 0);
  {
    Stream stream(context.device, context.backend);
    for (const std::size_t size : stream.sizes().cold) {
      context.poll();
      const Timing timing = stream.read_cold(size);
      add(concat("cold_read_", size / kMiB, "MiB(GB/s)"), "uint8", rates(timing, gigabytes(size)),
          timing.telemetry, stream_rate);
    }
    context.poll();
    const Timing timing = stream.copy();
    add("copy(GB/s)", "uint8", rates(timing, gigabytes(stream.copied_bytes())), timing.telemetry,
        stream_rate);
  }
  const Ceilings::Measured& product = context.ceilings->product();
  add("product(TFLOP/s)", "bfloat16", product.values, product.telemetry, 0);
  results.back().work = {product.flops, product.bytes,
                         product.flops * 1e-12 / median(product.values)};
  return results;
}

}  // namespace engine::bench
