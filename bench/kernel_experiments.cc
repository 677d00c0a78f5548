#include "bench/kernel_experiments.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <string>
#include <utility>

#include "bench/kernel_bench.h"
#include "kernels/core/check.h"

namespace engine::bench {
namespace {

using reference::Values;

constexpr std::int64_t kExperts = 8, kNormRows = 4096, kInner = 14336, kManyRows = 4096;
constexpr std::array<std::int32_t, 2> kChosen = {3, 5};
constexpr double kSourcePeakTflops = 312;  // of the A100 that the source divides by
// One rounding to bf16 has a relative error of u ÷ √3 in the mean at its worst, u = 2^-8.
constexpr double kOneRounding = 0.6 * 0x1p-8;
// Five in a row: h, gelu, norm, product, norm.
constexpr double kFiveRoundings = 2.3 * kOneRounding;

std::vector<std::int64_t> sizes_for(const KernelBench& bench) {
  if (bench.cuda()) return {1024, 4096, 8192, 16384};
  return {1024, 2048};
}

std::string dtype_of(const BenchFlags& flags) { return flags.int8 ? "int8" : "bfloat16"; }

void need_bf16(const char* name, const BenchFlags& flags, bool int8_too) {
  ENGINE_CHECK(flags.dtype == DType::kBF16, ErrorKind::kUsage, name,
               ": expected --dtype bf16, found ", dtype_name(flags.dtype));
  ENGINE_CHECK(int8_too || !flags.int8, ErrorKind::kUsage, name, ": there is no --int8 of it");
}

// The rows of one metric: one a size, then the mean over sizes of the medians.
class Series {
 public:
  Series(KernelBench& bench, std::string name, std::string metric, std::string unit,
         std::string dtype, double ceiling)
      : bench_(bench),
        name_(std::move(name)),
        metric_(std::move(metric)),
        unit_(std::move(unit)),
        dtype_(std::move(dtype)),
        ceiling_(ceiling) {}

  // `value` is what a sample of some seconds is worth; `flops` and `bytes` are what it did, zeros
  // where another series of the same calls says so.
  template <typename F>
  void add(std::int64_t size, const Timing& timing, double flops, double bytes, const F& value) {
    std::vector<double> values;
    for (const double seconds : timing.seconds) values.push_back(value(seconds));
    Result row = bench_.result(name_, concat(metric_, "_", size, unit_), dtype_, std::move(values),
                               timing.telemetry, std::to_string(size));
    row.ceiling = ceiling_;
    row.columns.push_back({"time(us)", 1e6 * median(timing.seconds)});
    if (bytes > 0) row.work = {flops, bytes, median(timing.seconds)};
    medians_.push_back(row.actual);
    times_.push_back(1e6 * median(timing.seconds));
    last_ = timing.telemetry;
    rows_.push_back(std::move(row));
  }
  // Moves the rows to `results`, the mean behind them.
  void finish(std::vector<Result>& results, double target, const std::string& suffix = "") {
    Result row = bench_.result(name_, metric_ + suffix + unit_, dtype_, medians_, last_, "mean");
    row.actual = mean(medians_);
    row.target = bench_.cuda() ? target : 0;
    row.ceiling = ceiling_;
    row.columns.push_back({"time(us)", mean(times_)});
    row.headline = std::any_of(rows_.begin(), rows_.end(),
                               [](const Result& own) { return own.work.bytes > 0; });
    for (Result& own : rows_) results.push_back(std::move(own));
    results.push_back(std::move(row));
  }

 private:
  KernelBench& bench_;
  std::string name_, metric_, unit_, dtype_;
  double ceiling_;
  std::vector<Result> rows_;
  std::vector<double> medians_, times_;
  Telemetry last_;
};

// The product of x by rows of a matrix, read from the device a piece at a time.
Values product_oracle(KernelBench& bench, const Values& x, const Tensor& w, std::int64_t first,
                      std::int64_t count) {
  constexpr std::int64_t kPiece = 256;
  const auto inputs = static_cast<std::size_t>(w.size(1));
  const std::size_t tokens = x.size() / inputs, outputs = static_cast<std::size_t>(count);
  Values out(tokens * outputs);
  for (std::int64_t row = 0; row < count; row += kPiece) {
    const std::int64_t rows = std::min(kPiece, count - row);
    const Values part = reference::linear(x, bench.rows(w, first + row, rows), {}, w.size(1));
    for (std::size_t t = 0; t < tokens; ++t) {
      std::copy_n(part.begin() + static_cast<std::ptrdiff_t>(t) * rows, rows,
                  out.begin() + static_cast<std::ptrdiff_t>(t * outputs) + row);
    }
  }
  return out;
}

Weight weight_of(const Tensor& w) {
  return {.data = w.data,
          .scales = nullptr,
          .format = w.dtype == DType::kU8 ? QuantFormat::kInt8 : QuantFormat::kBF16,
          .rows = w.size(0),
          .columns = w.size(1),
          .device = w.device};
}

std::vector<Result> run_vectors(const RunContext& context, const BenchFlags& flags,
                                const char* name, bool gathers, double target) {
  need_bf16(name, flags, true);
  KernelBench bench(context, flags);
  Series series(bench, name, "memory_bandwidth", "(GB/s)", dtype_of(flags),
                context.ceilings->read_gb_per_s());
  const std::int64_t count = gathers ? kExperts : 1;
  for (const std::int64_t size : sizes_for(bench)) {
    const auto slots = static_cast<std::int64_t>(gathers ? kChosen.size() : 1);
    const std::size_t read =
        static_cast<std::size_t>(slots * size * size) * (flags.int8 ? 1 : sizeof(bf16_t));
    const int sets = bench.sets_for(read);
    std::vector<Tensor> weights;
    for (int set = 0; set < sets; ++set) {
      weights.push_back(flags.int8 ? bench.bytes(count * size, size)
                                   : bench.normal(DType::kBF16, {count * size, size}, 0.02f));
    }
    const Tensor x = bench.normal(DType::kBF16, {size}, 1.0f);
    const Tensor out = bench.empty(DType::kBF16, {slots, size});
    Tensor experts;
    if (gathers) {
      experts = bench.empty(DType::kI32, {slots});
      bench.backend().write(experts, kChosen.data());
    }
    const auto issue = [&](Ops& ops, int set) {
      ops.gather_gemv({.out = out,
                       .x = x,
                       .weight = weight_of(weights[static_cast<std::size_t>(set)]),
                       .experts = experts,
                       .count = count});
    };
    issue(bench.backend().ops(), 0);
    Values expected;
    for (std::int64_t slot = 0; slot < slots; ++slot) {
      const std::int64_t expert = gathers ? kChosen[static_cast<std::size_t>(slot)] : 0;
      const Values part =
          product_oracle(bench, bench.rows(x, 0, size), weights[0], expert * size, size);
      expected.insert(expected.end(), part.begin(), part.end());
    }
    KernelBench::verify(concat(name, " of ", size), bench.rows(out, 0, slots), expected,
                        kOneRounding);
    series.add(size, bench.time(issue, sets), 2.0 * static_cast<double>(slots * size * size),
               static_cast<double>(read),
               [&](double s) { return 1e-9 * static_cast<double>(read) / s; });
    bench.clear();
  }
  std::vector<Result> results;
  series.finish(results, target);
  return results;
}

struct MlpOperands {
  Tensor up, up_bias, inner_weight, inner_bias, down, down_bias, outer_weight, outer_bias;

  MlpOperands(KernelBench& bench, std::int64_t size) {
    const auto reach = [](std::int64_t inputs) {
      return 1.0f / std::sqrt(static_cast<float>(inputs));
    };
    up = bench.normal(DType::kBF16, {kInner, size}, reach(size));
    down = bench.normal(DType::kBF16, {size, kInner}, reach(kInner));
    up_bias = bench.normal(DType::kBF16, {kInner}, 0.1f);
    inner_weight = bench.normal(DType::kBF16, {kInner}, 1.0f);
    inner_bias = bench.normal(DType::kBF16, {kInner}, 0.1f);
    down_bias = bench.normal(DType::kBF16, {size}, 0.1f);
    outer_weight = bench.normal(DType::kBF16, {size}, 1.0f);
    outer_bias = bench.normal(DType::kBF16, {size}, 0.1f);
  }
  MlpLayerNormCall call(const Tensor& out, const Tensor& x, bool gelu) const {
    return {.out = out,
            .x = x,
            .up = weight_of(up),
            .up_bias = up_bias,
            .inner_weight = inner_weight,
            .inner_bias = inner_bias,
            .down = weight_of(down),
            .down_bias = down_bias,
            .outer_weight = outer_weight,
            .outer_bias = outer_bias,
            .gelu = gelu};
  }
  Values oracle(KernelBench& bench, const Values& x, bool gelu) const {
    const auto add_rows = [&](Values values, const Tensor& bias) {
      const Values row = bench.rows(bias, 0, bias.size(0));
      for (std::size_t i = 0; i < values.size(); ++i) values[i] += row[i % row.size()];
      return values;
    };
    const auto norm = [&](const Values& values, const Tensor& w, const Tensor& b) {
      return reference::layernorm(values, bench.rows(w, 0, w.size(0)), bench.rows(b, 0, b.size(0)),
                                  1e-5);
    };
    Values hidden = add_rows(product_oracle(bench, x, up, 0, kInner), up_bias);
    if (gelu) hidden = reference::gelu(hidden);
    hidden = norm(hidden, inner_weight, inner_bias);
    return norm(add_rows(product_oracle(bench, hidden, down, 0, down.size(0)), down_bias),
                outer_weight, outer_bias);
  }
};

// The MLP of `size` on `tokens` rows, verified on its first and last row, then timed.
Timing time_mlp(KernelBench& bench, std::int64_t size, std::int64_t tokens, bool gelu) {
  const std::size_t read = sizeof(bf16_t) * static_cast<std::size_t>(2 * kInner * size);
  const int sets = tokens == 1 ? bench.sets_for(read) : 1;
  std::vector<MlpOperands> operands;
  for (int set = 0; set < sets; ++set) operands.emplace_back(bench, size);
  const Tensor x = bench.normal(DType::kBF16, {tokens, size}, 1.0f);
  const Tensor out = bench.empty(DType::kBF16, {tokens, size});
  Workspace scratch;
  const auto issue = [&](Ops& ops, int set) {
    ops.mlp_layer_norm(operands[static_cast<std::size_t>(set)].call(out, x, gelu), scratch);
  };
  const std::size_t bytes = bench.backend().workspace_bytes(
      [&](Ops& ops, Workspace ws) { ops.mlp_layer_norm(operands[0].call(out, x, gelu), ws); });
  const Tensor memory = bench.empty(DType::kU8, {static_cast<std::int64_t>(bytes)});
  scratch = Workspace(memory.data, bytes, memory.device);
  issue(bench.backend().ops(), 0);
  for (const std::int64_t row : {std::int64_t{0}, tokens - 1}) {
    KernelBench::verify(concat("mlp_layer_norm_gelu of ", size, ", row ", row),
                        bench.rows(out, row, 1),
                        operands[0].oracle(bench, bench.rows(x, row, 1), gelu), kFiveRoundings);
    if (tokens == 1) break;
  }
  const Timing timing = bench.time(issue, sets);
  bench.clear();
  return timing;
}

}  // namespace

std::vector<Result> run_gemv(const RunContext& context, const BenchFlags& flags) {
  return run_vectors(context, flags, "gemv", false, flags.int8 ? 870 : 990);
}

std::vector<Result> run_gather_gemv(const RunContext& context, const BenchFlags& flags) {
  return run_vectors(context, flags, "gather_gemv", true, flags.int8 ? 990 : 1060);
}

std::vector<Result> run_layer_norm(const RunContext& context, const BenchFlags& flags) {
  need_bf16("layer_norm", flags, false);
  KernelBench bench(context, flags);
  Series series(bench, "layer_norm", "memory_bandwidth", "(GB/s)", "bfloat16",
                context.ceilings->read_gb_per_s());
  const std::int64_t rows = bench.cuda() ? kNormRows : 256;
  for (const std::int64_t size : sizes_for(bench)) {
    const std::size_t moved = 2 * sizeof(bf16_t) * static_cast<std::size_t>(rows * size);
    const int sets = bench.sets_for(moved);
    std::vector<Tensor> x, out;
    for (int set = 0; set < sets; ++set) {
      x.push_back(bench.normal(DType::kBF16, {rows, size}, 1.0f));
      out.push_back(bench.empty(DType::kBF16, {rows, size}));
    }
    const Tensor weight = bench.normal(DType::kF32, {size}, 1.0f);
    const Tensor bias = bench.normal(DType::kF32, {size}, 1.0f);
    const auto issue = [&](Ops& ops, int set) {
      const auto at = static_cast<std::size_t>(set);
      ops.layernorm({.out = out[at], .x = x[at], .weight = weight, .bias = bias});
    };
    issue(bench.backend().ops(), 0);
    constexpr std::int64_t kPiece = 64;
    for (std::int64_t row = 0; row < rows; row += kPiece) {
      KernelBench::verify(
          concat("layer_norm of ", size, ", from row ", row), bench.rows(out[0], row, kPiece),
          reference::layernorm(bench.rows(x[0], row, kPiece), bench.rows(weight, 0, size),
                               bench.rows(bias, 0, size), 1e-5),
          kOneRounding);
    }
    // An element's 7 operations: its share of the sum; a difference, a square and its sum; the
    // product with the deviation's inverse, with the weight, the addition of the bias.
    series.add(size, bench.time(issue, sets), 7.0 * static_cast<double>(rows * size),
               static_cast<double>(moved),
               [&](double s) { return 1e-9 * static_cast<double>(moved) / s; });
    bench.clear();
  }
  std::vector<Result> results;
  series.finish(results, 950);
  return results;
}

std::vector<Result> run_mlp_layer_norm_gelu(const RunContext& context, const BenchFlags& flags) {
  need_bf16("mlp_layer_norm_gelu", flags, false);
  KernelBench bench(context, flags);
  const char* name = "mlp_layer_norm_gelu";
  const double peak = context.ceilings->product_tflops();
  const std::int64_t tokens = bench.cuda() ? kManyRows : 16;
  Series source(bench, name, "flops_utilization", "(source formula)", "bfloat16", 0);
  Series truth(bench, name, "flops_utilization", "", "bfloat16", 1);
  Series bytes(bench, name, "memory_bandwidth", "(GB/s)", "bfloat16",
               context.ceilings->read_gb_per_s());
  Series many(bench, name, concat("flops_utilization_", tokens, "_rows"), "", "bfloat16", 1);
  for (const std::int64_t size : sizes_for(bench)) {
    const double flops = 4.0 * static_cast<double>(kInner * size);
    const Timing one = time_mlp(bench, size, 1, false);
    source.add(size, one, 0, 0,
               [&](double s) { return 1e6 * s * flops / 1e9 / kSourcePeakTflops; });
    truth.add(size, one, 0, 0, [&](double s) { return 1e-12 * flops / s / peak; });
    // Two bytes a weight, two operations a weight: the same number.
    bytes.add(size, one, flops, flops, [&](double s) { return 1e-9 * flops / s; });
    const double all = flops * static_cast<double>(tokens);
    const double in_and_out = 4.0 * static_cast<double>(tokens * size);
    many.add(size, time_mlp(bench, size, tokens, true), all, flops + in_and_out,
             [&](double s) { return 1e-12 * all / s / peak; });
  }
  std::vector<Result> results;
  source.finish(results, 0.8);
  truth.finish(results, 0);
  bytes.finish(results, 0);
  many.finish(results, 0);
  return results;
}

}  // namespace engine::bench
