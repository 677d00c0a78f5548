#include "bench/sdp_experiment.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <memory>
#include <numeric>
#include <string>
#include <utility>

#include "kernels/core/check.h"
#include "kernels/core/philox.h"

namespace engine::bench {
namespace {

using Clock = std::chrono::steady_clock;

constexpr std::uint64_t kSeed = 123;
constexpr double kLeastSeconds = 0.2;  // of a timing, as the source's timer has it

struct Config {
  std::int64_t batch, heads, length, head_size;
  DType dtype;
  double padding;  // 0: a dense batch

  std::int64_t embedding() const { return heads * head_size; }
};

// The layer's weights and one batch of inputs, on a backend of their own.
class Layer {
 public:
  Layer(const RunContext& context, const Config& config)
      : config_(config),
        backend_(make_backend(context.device, context.backend)),
        lengths_(config.padding > 0
                     ? padded_lengths(config.batch, config.length, config.padding, kSeed)
                     : std::vector<std::int32_t>(static_cast<std::size_t>(config.batch),
                                                 static_cast<std::int32_t>(config.length))),
        rows_(std::accumulate(lengths_.begin(), lengths_.end(), std::int64_t{0})) {
    const std::int64_t e = config.embedding();
    // The spread of the source's initial weights: Xavier's of (3 E, E), and 1 ÷ √(3 E).
    const float spread = std::sqrt(2.0f / static_cast<float>(4 * e));
    x_ = filled({rows_, e}, 1.0f);
    in_bias_ = filled({3 * e}, 0.02f);
    out_bias_ = filled({e}, 0.02f);
    in_ = packed(3 * e, e, spread);
    out_ = packed(e, e, 1.0f / std::sqrt(static_cast<float>(3 * e)));
    qkv_ = taken({rows_, 3 * e});
    attended_ = taken({rows_, e});
    result_ = taken({rows_, e});
    if (config.padding > 0) upload_offsets();
  }

  Backend& backend() { return *backend_; }
  std::int64_t rows() const { return rows_; }
  // Products of both projections and of attention; input, weights and output once.
  Work work() const {
    const double e = static_cast<double>(config_.embedding()), n = static_cast<double>(rows_);
    double pairs = 0;
    for (const std::int32_t length : lengths_) pairs += static_cast<double>(length) * length;
    return {.flops = 8 * n * e * e + 4 * pairs * e,
            .bytes = static_cast<double>(dtype_size(config_.dtype)) * (2 * n * e + 4 * e * e),
            .seconds = 0};
  }

  void fused(Ops& ops, Workspace scratch) const {
    project_in(ops, scratch);
    ops.attention_batch(whole(), scratch);
    project_out(ops, scratch);
  }
  // A ragged batch is composed sequence by sequence, so that no work is done on padding.
  void composed(Ops& ops, Workspace scratch) const {
    project_in(ops, scratch);
    if (config_.padding == 0) {
      attention_composed(ops, whole(), scratch);
    } else {
      std::int64_t first = 0;
      for (const std::int32_t length : lengths_) {
        attention_composed(ops, sequence(first, length), scratch);
        first += length;
      }
    }
    project_out(ops, scratch);
  }
  std::vector<float> result() {
    std::vector<std::uint8_t> bytes(result_.bytes());
    backend_->read(bytes.data(), result_);
    std::vector<float> values(static_cast<std::size_t>(result_.numel()));
    for (std::size_t i = 0; i < values.size(); ++i) {
      const auto* at = bytes.data() + i * dtype_size(config_.dtype);
      if (config_.dtype == DType::kF32) {
        values[i] = *reinterpret_cast<const float*>(at);
      } else {
        const auto half = *reinterpret_cast<const std::uint16_t*>(at);
        values[i] = config_.dtype == DType::kF16 ? f16_to_float(half) : bf16_to_float(half);
      }
    }
    return values;
  }

 private:
  Tensor taken(Shape shape) {
    memory_.push_back(
        backend_->allocate(static_cast<std::size_t>(shape.numel()) * dtype_size(config_.dtype)));
    return memory_.back().tensor(config_.dtype, shape);
  }
  Tensor filled(Shape shape, float sigma) {
    const Tensor tensor = taken(shape);
    backend_->measure()->fill_normal(tensor, sigma, {.seed = kSeed, .stream = stream_++});
    return tensor;
  }
  Weight packed(std::int64_t rows, std::int64_t columns, float sigma) {
    Buffer memory =
        backend_->allocate(static_cast<std::size_t>(rows * columns) * dtype_size(config_.dtype));
    backend_->measure()->fill_normal(memory.tensor(config_.dtype, {rows, columns}), sigma,
                                     {.seed = kSeed, .stream = stream_++});
    weights_.push_back(backend_->pack("a projection of sdp", std::move(memory), config_.dtype, rows,
                                      columns, plain_format(config_.dtype)));
    return weights_.back().weight;
  }
  void upload_offsets() {
    std::vector<std::int32_t> offsets(1, 0);
    for (const std::int32_t length : lengths_) offsets.push_back(offsets.back() + length);
    const auto count = static_cast<std::int64_t>(offsets.size());
    memory_.push_back(backend_->allocate(offsets.size() * sizeof(std::int32_t)));
    offsets_ = memory_.back().tensor(DType::kI32, {count});
    backend_->write(offsets_, offsets.data());
  }

  void project_in(Ops& ops, Workspace scratch) const {
    ops.linear({.out = qkv_, .x = x_, .weight = in_, .residual = {}, .bias = in_bias_}, scratch);
  }
  void project_out(Ops& ops, Workspace scratch) const {
    ops.linear({.out = result_, .x = attended_, .weight = out_, .residual = {}, .bias = out_bias_},
               scratch);
  }
  // Rows [first, first + count) of columns of `from` as (planes, count ÷ planes, H, Dh).
  Tensor by_head(const Tensor& from, std::int64_t part, std::int64_t first, std::int64_t count,
                 std::int64_t planes) const {
    const std::int64_t e = config_.embedding();
    return from.slice(0, first, count)
        .slice(1, part * e, e)
        .split(1, config_.head_size)
        .split(0, count / planes);
  }
  AttentionBatchCall call_of(std::int64_t first, std::int64_t count, std::int64_t planes) const {
    AttentionBatchCall call;
    call.q = by_head(qkv_, 0, first, count, planes);
    call.k = by_head(qkv_, 1, first, count, planes);
    call.v = by_head(qkv_, 2, first, count, planes);
    call.out = by_head(attended_, 0, first, count, planes);
    call.scale = 1.0f / std::sqrt(static_cast<float>(config_.head_size));
    return call;
  }
  AttentionBatchCall sequence(std::int64_t first, std::int64_t length) const {
    return call_of(first, length, 1);
  }
  AttentionBatchCall whole() const {
    if (config_.padding == 0) return call_of(0, rows_, config_.batch);
    AttentionBatchCall call = call_of(0, rows_, 1);
    call.query_offsets = call.key_offsets = offsets_;
    call.max_queries = call.max_keys = config_.length;
    return call;
  }

  Config config_;
  std::unique_ptr<Backend> backend_;
  std::vector<std::int32_t> lengths_;
  std::int64_t rows_;
  std::uint64_t stream_ = 0;
  std::vector<Buffer> memory_;
  std::vector<PackedWeight> weights_;
  Tensor x_, in_bias_, out_bias_, qkv_, attended_, result_, offsets_;
  Weight in_, out_;
};

// |a − b| ≤ t + t |b|, and one unit in the last place of what is stored, everywhere.
void expect_close(const std::vector<float>& a, const std::vector<float>& b, double tolerance,
                  DType dtype) {
  const double unit = dtype == DType::kBF16 ? 0x1p-7 : dtype == DType::kF16 ? 0x1p-10 : 0x1p-23;
  for (std::size_t i = 0; i < a.size(); ++i) {
    const double difference = std::fabs(static_cast<double>(a[i]) - static_cast<double>(b[i]));
    const double allowed = tolerance + (tolerance + unit) * std::fabs(static_cast<double>(b[i]));
    ENGINE_CHECK(difference <= allowed, ErrorKind::kNumeric, "sdp: output ", i,
                 " of the fused path is ", a[i], ", composed ", b[i]);
  }
}

// Mean microseconds of a call by the host's clock, over calls that together take kLeastSeconds.
double mean_microseconds(const RunContext& context, Backend& backend,
                         const std::function<void()>& call) {
  const auto run = [&](std::int64_t calls) {
    backend.synchronize();
    const auto start = Clock::now();
    for (std::int64_t i = 0; i < calls; ++i) call();
    backend.synchronize();
    return std::chrono::duration<double>(Clock::now() - start).count();
  };
  run(1);
  std::int64_t calls = 1;
  double seconds = run(calls);
  while (seconds < kLeastSeconds) {
    context.poll();
    calls *= seconds > 0.02 ? 2 : 10;
    seconds = run(calls);
  }
  return seconds / static_cast<double>(calls) * 1e6;
}

std::vector<Result> measure(const RunContext& context, const Config& config) {
  Layer layer(context, config);
  Backend& backend = layer.backend();
  using Path = std::function<void(Ops&, Workspace)>;
  const Path composed = [&](Ops& ops, Workspace ws) { layer.composed(ops, ws); };
  const Path fused = [&](Ops& ops, Workspace ws) { layer.fused(ops, ws); };
  const std::size_t bytes =
      std::max(backend.workspace_bytes(composed), backend.workspace_bytes(fused));
  Buffer scratch = backend.allocate(std::max<std::size_t>(bytes, 1));
  const Workspace workspace(scratch.data(), bytes, backend.device());

  composed(backend.ops(), workspace);
  const std::vector<float> expected = layer.result();
  fused(backend.ops(), workspace);
  expect_close(layer.result(), expected, config.padding > 0 ? 1e-2 : 1e-3, config.dtype);

  std::vector<Result> results;
  const auto report = [&](const char* metric, double microseconds) {
    Result r = context.row("sdp", metric, row_dtype(config.dtype));
    r.actual = microseconds;
    r.values = {microseconds};
    r.work = layer.work();
    r.work.seconds = 1e-6 * microseconds;
    r.config = {{"batch_size", config.batch},
                {"num_heads", config.heads},
                {"max_sequence_len", config.length},
                {"embed_dimension", config.embedding()},
                {"pad_percentage", config.padding}};
    r.columns = {{"rows", layer.rows()}, {"commit", context.commit}};
    results.push_back(std::move(r));
  };
  const auto time = [&](const char* eager, const char* replayed, const Path& path) {
    context.poll();
    report(eager, mean_microseconds(context, backend, [&] { path(backend.ops(), workspace); }));
    const std::unique_ptr<Plan> plan = backend.record([&](Ops& ops) { path(ops, workspace); });
    report(replayed, mean_microseconds(context, backend, [&] { plan->run(); }));
  };
  time("nn_mha_time (µs)", "compiled_nn_mha_time (µs)", composed);
  time("composite_mha_time (µs)", "compiled_composite_mha_time (µs)", fused);
  return results;
}

}  // namespace

std::vector<std::int32_t> padded_lengths(std::int64_t batch, std::int64_t longest, double padding,
                                         std::uint64_t seed) {
  constexpr double kSpread = 0.01;
  constexpr std::uint64_t kStream = 1000;
  std::vector<std::int32_t> lengths;
  for (std::int64_t i = 0; i < batch; ++i) {
    const Normal4 four = normal4(seed, kStream, static_cast<std::uint64_t>(i) / 4);
    const double share = 1.0 - (padding + kSpread * static_cast<double>(four.value[i % 4]));
    const auto length = static_cast<std::int64_t>(static_cast<double>(longest) * share);
    lengths.push_back(static_cast<std::int32_t>(std::clamp<std::int64_t>(length, 1, longest)));
  }
  const std::uint32_t drawn = philox4x32({{0, 0, 0, 1}}, seed).word[0];
  lengths[drawn % lengths.size()] = static_cast<std::int32_t>(longest);
  return lengths;
}

std::vector<Result> run_sdp(const RunContext& context, const BenchFlags& flags) {
  const bool gpu = context.device.kind == DeviceKind::kCuda;
  using List = std::vector<std::int64_t>;
  std::vector<Config> configs;
  const bool standard = !flags.batch && !flags.heads && !flags.seq && !flags.head_dim && !flags.pad;
  if (standard && gpu) configs.push_back({128, 8, 512, 64, DType::kF16, 0.0});
  const List batches = flags.batch.value_or(List{gpu ? 256 : 8});
  const List heads = flags.heads.value_or(List{gpu ? 32 : 8});
  const List lengths = flags.seq.value_or(List{gpu ? 256 : 64});
  const List sizes = flags.head_dim.value_or(List{16});
  std::vector<DType> dtypes = {flags.dtype};
  if (standard && flags.dtype == DType::kBF16) {
    dtypes = {DType::kBF16, DType::kF16, DType::kF32};
  }
  for (const std::int64_t b : batches) {
    for (const std::int64_t h : heads) {
      for (const std::int64_t l : lengths) {
        for (const std::int64_t d : sizes) {
          for (const DType dtype : dtypes) {
            for (const double pad : flags.pad.value_or(std::vector<double>{0.0, 0.9})) {
              configs.push_back({b, h, l, d, dtype, pad});
            }
          }
        }
      }
    }
  }
  std::vector<Result> results;
  for (const Config& config : configs) {
    for (Result& result : measure(context, config)) results.push_back(std::move(result));
  }
  return results;
}

}  // namespace engine::bench
