#include "bench/score_mod_experiment.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "bench/harness.h"
#include "kernels/core/check.h"
#include "kernels/reference/reference.h"

namespace engine::bench {
namespace {

constexpr std::uint64_t kSeed = 123;
constexpr int kComposedSamples = 5;
// What the masks beside the source's four are run with.
constexpr std::int64_t kExtent = 256;
constexpr float kCap = 30.0f;

struct Config {
  std::int64_t batch, heads, length, head_size;
  DType dtype;
  bool last = false;  // of those that are run

  double flops(ScoreKind kind) const {
    const double pairs = static_cast<double>(batch * heads) * static_cast<double>(length * length);
    return 4.0 * pairs * static_cast<double>(head_size) * (kind == ScoreKind::kCausal ? 0.5 : 1.0);
  }
  // Of one operand, as large as every other.
  double tensor_bytes() const {
    return static_cast<double>(batch * heads * length * head_size) *
           static_cast<double>(dtype_size(dtype));
  }
};

std::vector<double> decoded(Backend& backend, const Tensor& tensor) {
  std::vector<std::uint8_t> bytes(tensor.bytes());
  backend.read(bytes.data(), tensor);
  std::vector<double> values(static_cast<std::size_t>(tensor.numel()));
  for (std::size_t i = 0; i < values.size(); ++i) {
    const std::uint8_t* at = bytes.data() + i * dtype_size(tensor.dtype);
    if (tensor.dtype == DType::kF32) {
      float value;
      std::memcpy(&value, at, sizeof(value));
      values[i] = static_cast<double>(value);
    } else {
      std::uint16_t half;
      std::memcpy(&half, at, sizeof(half));
      values[i] = static_cast<double>(tensor.dtype == DType::kF16 ? f16_to_float(half)
                                                                  : bf16_to_float(half));
    }
  }
  return values;
}

// The operands of one configuration, on the device.
class Operands {
 public:
  Operands(Backend& backend, const Config& config)
      : config_(config), backend_(backend), measure_(backend.measure()) {
    for (Tensor* tensor : {&q_, &k_, &v_}) {
      *tensor = taken();
      measure_->fill_uniform(*tensor, {.seed = kSeed, .stream = stream_++});
    }
    dout_ = taken();
    measure_->fill_normal(dout_, 1.0f, {.seed = kSeed, .stream = stream_++});
    for (Tensor* tensor : {&out_, &dq_, &dk_, &dv_}) *tensor = taken();
    memory_.push_back(backend.allocate(
        static_cast<std::size_t>(config.batch * config.heads * config.length) * sizeof(float)));
    lse_ = memory_.back().tensor(DType::kF32, {config.batch, config.heads, config.length});
    std::vector<std::int32_t> spans;
    for (std::int64_t p = 0; p < config.length; ++p) {
      const std::int64_t begin = p / kExtent * kExtent;
      spans.push_back(static_cast<std::int32_t>(begin));
      spans.push_back(static_cast<std::int32_t>(std::min(begin + kExtent, config.length)));
    }
    memory_.push_back(backend.allocate(spans.size() * sizeof(std::int32_t)));
    spans_ = memory_.back().tensor(DType::kI32, {config.length, 2});
    backend.write(spans_, spans.data());
  }

  Measure& measure() { return *measure_; }
  AttentionBatchCall forward(ScoreKind kind, bool with_lse) const {
    AttentionBatchCall call;
    call.out = out_, call.q = q_, call.k = k_, call.v = v_;
    call.scale = 1.0f / std::sqrt(static_cast<float>(config_.head_size));
    call.score = {kind, kExtent, kCap, spans_};
    if (with_lse) call.lse = lse_;
    return call;
  }
  AttentionGradCall backward(ScoreKind kind, bool deterministic) const {
    return {forward(kind, true), dout_, dq_, dk_, dv_, deterministic};
  }
  // Compares rows of the last sequence with the oracle: weights and results are rounded to the
  // type, and all values are positive.
  void verify(ScoreKind kind, const char* what) {
    const std::int64_t last = config_.batch - 1;
    const auto plane = [&](const Tensor& t) { return decoded(backend_, t.slice(0, last, 1)); };
    if (oracle_k_.empty()) oracle_q_ = plane(q_), oracle_k_ = plane(k_), oracle_v_ = plane(v_);
    const std::vector<double> found = plane(out_);
    const std::int64_t row = config_.heads * config_.head_size;
    const double unit = config_.dtype == DType::kF32   ? 0x1p-20
                        : config_.dtype == DType::kF16 ? 0x1p-11
                                                       : 0x1p-8;
    for (const std::int64_t i : {std::int64_t{0}, config_.length / 2, config_.length - 1}) {
      const reference::Values q(oracle_q_.begin() + i * row, oracle_q_.begin() + (i + 1) * row);
      const reference::Values expected =
          reference::attention_batch(problem(kind, i), q, oracle_k_, oracle_v_).out;
      for (std::size_t j = 0; j < expected.size(); ++j) {
        const double value = found[static_cast<std::size_t>(i * row) + j];
        ENGINE_CHECK(std::fabs(value - expected[j]) <= 2.0 * unit * std::fabs(expected[j]) + 2e-4,
                     ErrorKind::kNumeric, "score_mod: ", what, " ", score_name(kind), ", row ", i,
                     ", element ", j, " is ", value, ", the oracle's ", expected[j]);
      }
    }
  }

  // The same for rows of dq, which need no other query. The gradients of scores are differences
  // from δ, which is that of `out` as it is stored: so is the oracle's.
  void verify_gradient(ScoreKind kind) {
    const std::int64_t last = config_.batch - 1;
    const auto plane = [&](const Tensor& t) { return decoded(backend_, t.slice(0, last, 1)); };
    const std::vector<double> found = plane(dq_), dout = plane(dout_), out = plane(out_);
    const std::int64_t row = config_.heads * config_.head_size;
    const double unit = config_.dtype == DType::kBF16 ? 0x1p-8 : 0x1p-11;
    for (const std::int64_t i : {std::int64_t{0}, config_.length / 2, config_.length - 1}) {
      const auto at = [&](const std::vector<double>& values) {
        return reference::Values(values.begin() + i * row, values.begin() + (i + 1) * row);
      };
      const reference::Values expected = gradient(kind, i, at(oracle_q_), at(dout), at(out));
      double greatest = 1e-3;
      for (const double x : expected) greatest = std::max(greatest, std::fabs(x));
      for (std::size_t j = 0; j < expected.size(); ++j) {
        const double value = found[static_cast<std::size_t>(i * row) + j];
        ENGINE_CHECK(std::fabs(value - expected[j]) <= 8.0 * unit * greatest, ErrorKind::kNumeric,
                     "score_mod: gradient of q with ", score_name(kind), ", row ", i, ", element ",
                     j, " is ", value, ", the oracle's ", expected[j]);
      }
    }
  }

 private:
  // dq of the query at `position`, with δ from `out`.
  reference::Values gradient(ScoreKind kind, std::int64_t position, const reference::Values& q,
                             const reference::Values& dout, const reference::Values& out) const {
    const reference::AttentionBatchProblem p = problem(kind, position);
    reference::Values dq = reference::attention_backward(p, q, oracle_k_, oracle_v_, dout).dq;
    const reference::Values exact = reference::attention_batch(p, q, oracle_k_, oracle_v_).out;
    const auto width = static_cast<std::size_t>(config_.head_size);
    for (std::int64_t h = 0; h < config_.heads; ++h) {
      const std::size_t first = static_cast<std::size_t>(h) * width;
      const reference::Values weights = reference::attention_weights(p, q, oracle_k_, 0, h);
      double moved = 0.0;  // of δ
      for (std::size_t d = first; d < first + width; ++d) moved += dout[d] * (out[d] - exact[d]);
      for (std::int64_t j = 0; j < p.keys; ++j) {
        for (std::size_t d = 0; d < width; ++d) {
          dq[first + d] -= p.scale * moved * weights[static_cast<std::size_t>(j)] *
                           oracle_k_[p.key_row(j, h) * width + d];
        }
      }
    }
    return dq;
  }
  Tensor taken() {
    const Shape shape{config_.batch, config_.length, config_.heads, config_.head_size};
    memory_.push_back(
        backend_.allocate(static_cast<std::size_t>(shape.numel()) * dtype_size(config_.dtype)));
    return memory_.back().tensor(config_.dtype, shape);
  }
  reference::AttentionBatchProblem problem(ScoreKind kind, std::int64_t position) const {
    reference::AttentionBatchProblem p;
    p.queries = 1, p.keys = config_.length;
    p.heads = p.kv_heads = config_.heads;
    p.head_size = config_.head_size;
    p.position = position;
    p.scale = static_cast<double>(1.0f / std::sqrt(static_cast<float>(config_.head_size)));
    p.kind = kind, p.extent = kExtent, p.cap = static_cast<double>(kCap);
    for (std::int64_t i = 0; i < config_.length; ++i) {
      p.document.push_back(static_cast<std::int32_t>(i / kExtent));
    }
    return p;
  }

  Config config_;
  Backend& backend_;
  std::unique_ptr<Measure> measure_;
  std::uint64_t stream_ = 0;
  std::vector<Buffer> memory_;
  Tensor q_, k_, v_, dout_, out_, dq_, dk_, dv_, lse_, spans_;
  std::vector<double> oracle_q_, oracle_k_, oracle_v_;
};

class Experiment {
 public:
  Experiment(const RunContext& context, const BenchFlags& flags)
      : context_(context), flags_(flags) {}

  std::vector<Result> run(const std::vector<Config>& configs, const std::vector<ScoreKind>& kinds) {
    for (const Config& config : configs) measure(config, kinds);
    for (const char* direction : {"fwd", "bwd"}) summarise(direction);
    return std::move(results_);
  }

 private:
  void measure(const Config& config, const std::vector<ScoreKind>& kinds);
  void measure_backward(Backend& backend, Operands& operands, const Config& config,
                        const std::vector<ScoreKind>& kinds);
  std::optional<double> composed_us(Backend& backend, Operands& operands, ScoreKind kind);
  Result row(const Config& config, ScoreKind kind, const std::string& metric) const {
    Result r = context_.row("score_mod", metric, row_dtype(config.dtype));
    r.config = {{"batch_size", config.batch},
                {"num_heads", config.heads},
                {"seq_len", config.length},
                {"head_dim", config.head_size},
                {"score_mod", std::string(score_name(kind))}};
    r.columns = {{"commit", context_.commit}};
    return r;
  }
  // The rows of one timing: TFLOP/s with its share of the product's ceiling, and speed-up over the
  // baseline that was timed beside it.
  void report(const Config& config, ScoreKind kind, const std::string& direction,
              const std::pair<Timing, Timing>& baseline_and_own, double flops, Columns more);
  void summarise(const std::string& direction);

  const RunContext& context_;
  const BenchFlags& flags_;
  std::vector<Result> results_;
};

double thousandths(double value) { return std::round(value * 1000.0) / 1000.0; }

void Experiment::report(const Config& config, ScoreKind kind, const std::string& direction,
                        const std::pair<Timing, Timing>& baseline_and_own, double flops,
                        Columns more) {
  const auto& [baseline, timing] = baseline_and_own;
  const double us = median(timing.seconds) * 1e6;
  const double baseline_us = median(baseline.seconds) * 1e6;
  Result rate = row(config, kind, direction + "_rate(TFLOP/s)");
  for (const double s : timing.seconds) rate.values.push_back(flops / s * 1e-12);
  rate.actual = median(rate.values);
  rate.ceiling = config.dtype == DType::kF32 ? 0 : context_.ceilings->product_tflops();
  rate.telemetry = timing.telemetry;
  // q, k, v, out; backward their gradients too.
  rate.work = {.flops = flops,
               .bytes = (direction == "fwd" ? 4 : 8) * config.tensor_bytes(),
               .seconds = median(timing.seconds)};
  // The last configuration, that is the largest of the experiment's own.
  rate.headline = config.last && (kind == ScoreKind::kNoop || kind == ScoreKind::kCausal);
  rate.config.push_back({direction + "_us", thousandths(us)});
  rate.columns.push_back({"baseline_us", thousandths(baseline_us)});
  for (auto& column : more) rate.columns.push_back(std::move(column));
  results_.push_back(std::move(rate));
  Result speedup = row(config, kind, direction + "_speedup");
  speedup.actual = thousandths(baseline_us / us);
  speedup.values = {baseline_us / us};
  results_.push_back(std::move(speedup));
}

std::optional<double> Experiment::composed_us(Backend& backend, Operands& operands,
                                              ScoreKind kind) {
  const AttentionBatchCall call = operands.forward(kind, false);
  const std::size_t bytes =
      backend.workspace_bytes([&](Ops& ops, Workspace ws) { attention_composed(ops, call, ws); });
  if (bytes > backend.memory().free / 2) return std::nullopt;  // a score matrix too large to hold
  Buffer scratch = backend.allocate(bytes);
  const Workspace workspace(scratch.data(), bytes, backend.device());
  const Timing timing = time_cold(
      operands.measure(), [&] { attention_composed(backend.ops(), call, workspace); },
      kComposedSamples);
  return median(timing.seconds) * 1e6;
}

void Experiment::measure(const Config& config, const std::vector<ScoreKind>& kinds) {
  const std::unique_ptr<Backend> backend = make_backend(context_.device, context_.backend);
  Operands operands(*backend, config);
  const AttentionBatchCall plain = operands.forward(ScoreKind::kNoop, false);
  const std::size_t bytes =
      backend->workspace_bytes([&](Ops& ops, Workspace ws) { ops.attention_batch(plain, ws); });
  Buffer scratch = backend->allocate(std::max<std::size_t>(bytes, 1));
  const Workspace workspace(scratch.data(), bytes, backend->device());
  const auto run = [&](const AttentionBatchCall& call) {
    backend->ops().attention_batch(call, workspace);
  };
  run(plain);
  operands.verify(ScoreKind::kNoop, "attention with");
  for (const ScoreKind kind : kinds) {
    context_.poll();
    const AttentionBatchCall call = operands.forward(kind, false);
    run(call);
    operands.verify(kind, "attention with");
    const auto timings = time_cold_in_turn(
        operands.measure(), [&] { run(plain); }, [&] { run(call); });
    Columns more;
    if (const std::optional<double> us = composed_us(*backend, operands, kind)) {
      more.push_back({"composed_us", thousandths(*us)});
    }
    report(config, kind, "fwd", timings, config.flops(kind), std::move(more));
  }
  if (flags_.backward) measure_backward(*backend, operands, config, kinds);
}

void Experiment::measure_backward(Backend& backend, Operands& operands, const Config& config,
                                  const std::vector<ScoreKind>& kinds) {
  const AttentionGradCall plain = operands.backward(ScoreKind::kNoop, false);
  const auto need = [&](const AttentionGradCall& call) {
    return backend.workspace_bytes(
        [&](Ops& ops, Workspace ws) { ops.attention_backward(call, ws); });
  };
  const std::size_t bytes = std::max(need(plain), need(operands.backward(ScoreKind::kNoop, true)));
  const std::size_t forward_bytes = backend.workspace_bytes(
      [&](Ops& ops, Workspace ws) { ops.attention_batch(plain.forward, ws); });
  const std::size_t most = std::max<std::size_t>({bytes, forward_bytes, 1});
  Buffer scratch = backend.allocate(most);
  const Workspace workspace(scratch.data(), most, backend.device());
  const auto time = [&](ScoreKind kind, bool deterministic) {
    context_.poll();
    const AttentionGradCall call = operands.backward(kind, deterministic);
    backend.ops().attention_batch(call.forward, workspace);
    backend.ops().attention_backward(call, workspace);
    operands.verify_gradient(kind);
    return time_cold(operands.measure(),
                     [&] { backend.ops().attention_backward(call, workspace); });
  };
  for (const ScoreKind kind : kinds) {
    const double ordered = median(time(kind, true).seconds) * 1e6;
    const Timing baseline = time(ScoreKind::kNoop, false);  // just before, on its own forward pass
    report(config, kind, "bwd", {baseline, time(kind, false)}, 2.5 * config.flops(kind),
           {{"deterministic_us", thousandths(ordered)}});
  }
}

void Experiment::summarise(const std::string& direction) {
  std::vector<Result> speedups;
  for (const Result& r : results_) {
    if (r.metric == direction + "_speedup") speedups.push_back(r);
  }
  if (speedups.empty()) return;
  const auto by_actual = [](const Result& a, const Result& b) { return a.actual < b.actual; };
  const auto [least, most] = std::minmax_element(speedups.begin(), speedups.end(), by_actual);
  double sum = 0;
  for (const Result& r : speedups) sum += r.values[0];
  Result average = speedups[0];
  average.config.clear();
  average.values = {sum / static_cast<double>(speedups.size())};
  average.actual = thousandths(average.values[0]);
  const auto add = [&](Result r, const char* which) {
    r.metric = direction + "_speedup_" + which;
    results_.push_back(std::move(r));
  };
  add(average, "average");
  add(*most, "max");
  add(*least, "min");
}

ScoreKind kind_of(const std::string& name) {
  return *std::find_if(std::begin(kScoreKinds), std::end(kScoreKinds),
                       [&](ScoreKind kind) { return score_name(kind) == name; });
}

}  // namespace

std::vector<Result> run_score_mod(const RunContext& context, const BenchFlags& flags) {
  const bool gpu = context.device.kind == DeviceKind::kCuda;
  using List = std::vector<std::int64_t>;
  const List batches = flags.batch.value_or(gpu ? List{2, 8, 16} : List{1});
  const List heads = flags.heads.value_or(List{gpu ? 16 : 4});
  const List lengths = flags.seq.value_or(gpu ? List{512, 1024, 4096} : List{128, 512});
  const List sizes = flags.head_dim.value_or(List{64, 128});
  std::vector<ScoreKind> kinds = {ScoreKind::kNoop, ScoreKind::kCausal, ScoreKind::kRel,
                                  ScoreKind::kHeadBias};
  if (!flags.mods.empty()) kinds.clear();
  for (const std::string& mod : flags.mods) kinds.push_back(kind_of(mod));
  std::vector<Config> configs;
  for (const std::int64_t b : batches) {
    for (const std::int64_t h : heads) {
      for (const std::int64_t l : lengths) {
        for (const std::int64_t d : sizes) configs.push_back({b, h, l, d, flags.dtype});
      }
    }
  }
  if (!configs.empty()) configs.back().last = true;
  return Experiment(context, flags).run(configs, kinds);
}

}  // namespace engine::bench
