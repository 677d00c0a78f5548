#include "bench/model_experiment.h"

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdio>
#include <functional>
#include <memory>
#include <string>
#include <utility>

#include "bench/step_traffic.h"
#include "bench/subject.h"
#include "engine/cli/output.h"
#include "engine/runtime/generate.h"
#include "engine/runtime/session.h"
#include "kernels/core/check.h"
#include "kernels/core/philox.h"

namespace engine::bench {
namespace {

using Clock = std::chrono::steady_clock;

constexpr std::array<std::int32_t, 6> kPrompt = {1, 15043, 29892, 590, 1024, 338};
constexpr std::int64_t kTargetTokens = 200;
constexpr std::int32_t kTopK = 200;
constexpr std::int64_t kTokensBetweenReads = 4;  // more than one: the first token is the prompt's

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

// One run from an empty cache.
struct Sample {
  double window_s = 0;
  double paused_s = 0;  // for reads beside the run: between tokens, and no part of window_s
  Generation generation;
};

class Experiment {
 public:
  Experiment(const RunContext& context, const BenchFlags& flags, const ModelSpec& spec)
      : context_(context),
        flags_(flags),
        spec_(spec),
        subject_(context, flags, spec, flags.prompt_len + flags.max_new_tokens) {
    if (context.device.kind == DeviceKind::kCpu) {
      beside_ = std::make_unique<ReadBeside>(context.device, context.backend);
    }
  }

  std::vector<Result> run() {
    measure_runs();
    const bool gpu = context_.device.kind == DeviceKind::kCuda;
    const std::vector<std::int64_t> none;
    measure_sizes(flags_.prefill.value_or(gpu ? std::vector<std::int64_t>{512, 2048, 4096} : none),
                  flags_.depth.value_or(gpu ? std::vector<std::int64_t>{0, 1024, 4096} : none));
    return std::move(results_);
  }

 private:
  void measure_runs();
  void measure_sizes(const std::vector<std::int64_t>& prefill,
                     const std::vector<std::int64_t>& depth);
  void measure_prefill(Session& session, std::int64_t tokens);
  void measure_depth(Session& session, std::int64_t depth);

  void add_run_rows(double startup_s, const std::vector<Sample>& samples,
                    const Telemetry& telemetry, std::size_t peak);
  // The ceiling and the work of a row of tokens/s, of steps behind `position` tokens.
  void count_step(Result& result, std::int64_t position);
  Result& add(const std::string& metric, std::vector<double> values, const Telemetry& telemetry);

  void prepare(Session& session) const;
  Sample run_once(Session& session, const std::vector<std::int32_t>& prompt);
  void note(const std::string& what, double value, const char* unit) const;
  // The ceiling of steps that read all the model's bytes.
  double read_gb_per_s() {
    return beside_ ? beside_->gb_per_s() : context_.ceilings->read_gb_per_s();
  }
  double model_gigabytes() {
    return step_traffic(subject_.backend(), subject_.decoder(), flags_.dtype, 1, 0).model_bytes() *
           1e-9;
  }

  const RunContext& context_;
  const BenchFlags& flags_;
  const ModelSpec& spec_;
  Subject subject_;
  std::unique_ptr<ReadBeside> beside_;  // on a CPU
  std::vector<Result> results_;
};

void Experiment::prepare(Session& session) const {
  SamplingParams params;
  params.seed = flags_.seed;
  params.temperature = 0.8f;
  params.top_k =
      static_cast<std::int32_t>(std::min<std::int64_t>(kTopK, subject_.decoder().config().vocab));
  session.set_sampling(params);
}

Sample Experiment::run_once(Session& session, const std::vector<std::int32_t>& prompt) {
  const GenerateOptions options = {.max_new_tokens = flags_.max_new_tokens,
                                   .eos_ids = {},
                                   .stop = {},
                                   .lookahead = context_.device.kind == DeviceKind::kCuda ? 1 : 0,
                                   .interrupt = context_.backend.interrupt};
  subject_.backend().synchronize();
  Sample sample;
  std::int64_t drawn = 0;
  const auto emit = [&](std::string_view piece) {  // an id, or the space before one
    if (beside_ == nullptr || piece == " " || ++drawn == flags_.max_new_tokens) return;
    if (drawn % kTokensBetweenReads == 0) sample.paused_s += beside_->read();
  };
  const Clock::time_point start = Clock::now();
  session.reset();
  sample.generation = generate(session, nullptr, prompt, options, emit);
  subject_.backend().synchronize();
  sample.window_s = seconds_since(start) - sample.paused_s;
  if (sample.paused_s > 0.0) {
    sample.generation.decode_s -= sample.paused_s;
    sample.generation.tokens_per_s =
        static_cast<double>(sample.generation.ids.size() - 1) / sample.generation.decode_s;
  }
  context_.poll();
  ENGINE_REQUIRE(static_cast<std::int64_t>(sample.generation.ids.size()) == flags_.max_new_tokens,
                 "a run drew ", sample.generation.ids.size(), " tokens, expected ",
                 flags_.max_new_tokens);
  return sample;
}

void Experiment::measure_runs() {
  const std::vector<std::int32_t> prompt =
      prompt_ids(flags_.prompt_len, subject_.decoder().config().vocab, flags_.seed);
  const Clock::time_point start = Clock::now();
  Session session(
      subject_.backend(), subject_.decoder(),
      {.dtype = flags_.dtype, .max_context = flags_.prompt_len + flags_.max_new_tokens});
  prepare(session);
  const double paused_s = run_once(session, prompt).paused_s;
  const double first_s = seconds_since(start) - paused_s;
  std::vector<Sample> samples;
  std::vector<double> windows;
  for (std::int64_t i = 0; i < flags_.samples; ++i) {
    samples.push_back(run_once(session, prompt));
    windows.push_back(samples.back().window_s);
    note(concat("sample ", i + 1, " of ", flags_.samples),
         static_cast<double>(flags_.max_new_tokens) / windows.back(), "tok/s");
  }
  add_run_rows(subject_.ready_s() + first_s - median(windows), samples,
               subject_.measure().telemetry(), subject_.backend().peak_bytes());
}

void Experiment::add_run_rows(double startup_s, const std::vector<Sample>& samples,
                              const Telemetry& telemetry, std::size_t peak) {
  std::vector<double> rate, bandwidth, decode, first_token;
  const double gigabytes = model_gigabytes();
  for (const Sample& sample : samples) {
    rate.push_back(static_cast<double>(flags_.max_new_tokens) / sample.window_s);
    bandwidth.push_back(gigabytes * rate.back());
    decode.push_back(sample.generation.tokens_per_s);
    first_token.push_back(1e3 * sample.generation.prefill_s);
  }
  const ModelTargets goal = targets_for(flags_, spec_);
  const double tokens_ceiling = read_gb_per_s() / gigabytes;
  Result& tokens = add("token_per_sec", rate, telemetry);
  tokens.target = goal.token_per_sec;
  tokens.ceiling = tokens_ceiling;
  tokens.headline = true;
  Result& bytes = add("memory_bandwidth(GB/s)", bandwidth, telemetry);
  bytes.target = goal.memory_bandwidth;
  bytes.ceiling = read_gb_per_s();
  add("startup_time(s)", {startup_s}, telemetry).target = goal.startup_time;
  if (flags_.max_new_tokens > 1) {
    // At the middle of the run, where the cache has its mean length.
    count_step(add("decode_token_per_sec", decode, telemetry),
               flags_.prompt_len + flags_.max_new_tokens / 2);
  }
  add("time_to_first_token(ms)", first_token, telemetry);
  add("peak_memory(GB)", {static_cast<double>(peak) * 1e-9}, telemetry);
}

void Experiment::measure_sizes(const std::vector<std::int64_t>& prefill,
                               const std::vector<std::int64_t>& depth) {
  std::int64_t positions = 0;
  for (const std::int64_t tokens : prefill) positions = std::max(positions, tokens);
  for (const std::int64_t tokens : depth) {
    positions = std::max(positions, std::max<std::int64_t>(tokens, 1) + flags_.max_new_tokens);
  }
  if (positions == 0) return;
  Session session(subject_.backend(), subject_.decoder(),
                  {.dtype = flags_.dtype, .max_context = positions});
  prepare(session);
  for (const std::int64_t tokens : prefill) measure_prefill(session, tokens);
  if (flags_.max_new_tokens < 2) return;  // the first token is the prompt's
  for (const std::int64_t tokens : depth) measure_depth(session, tokens);
}

void Experiment::measure_prefill(Session& session, std::int64_t tokens) {
  const std::vector<std::int32_t> prompt =
      prompt_ids(tokens, subject_.decoder().config().vocab, flags_.seed);
  std::vector<double> values;
  for (std::int64_t i = 0; i <= flags_.samples; ++i) {  // the first is a warm-up
    context_.poll();
    session.reset();
    subject_.backend().synchronize();
    const Clock::time_point start = Clock::now();
    session.prefill(prompt, true);
    session.next();
    if (i > 0) values.push_back(static_cast<double>(tokens) / seconds_since(start));
  }
  const StepTraffic step =
      step_traffic(subject_.backend(), subject_.decoder(), flags_.dtype, tokens, 0);
  Result& result =
      add(concat("prefill_", tokens, "_token_per_sec"), values, subject_.measure().telemetry());
  result.work = {.flops = step.flops(),
                 .bytes = step.model_bytes() + step.cache_bytes(),
                 .seconds = static_cast<double>(tokens) / result.actual};
  // The product that the ceiling times is bf16's; other compute types have none to stand against.
  if (flags_.dtype == DType::kBF16) {
    result.ceiling =
        static_cast<double>(tokens) * context_.ceilings->product_tflops() * 1e12 / step.flops();
  }
  note(result.metric, result.actual, "tok/s");
}

void Experiment::measure_depth(Session& session, std::int64_t depth) {
  const std::vector<std::int32_t> prompt =
      prompt_ids(std::max<std::int64_t>(depth, 1), subject_.decoder().config().vocab, flags_.seed);
  std::vector<double> values;
  for (std::int64_t i = 0; i <= flags_.samples; ++i) {  // the first is a warm-up
    const Sample sample = run_once(session, prompt);
    if (i > 0) values.push_back(sample.generation.tokens_per_s);
  }
  Result& result =
      add(concat("depth_", depth, "_token_per_sec"), values, subject_.measure().telemetry());
  count_step(result, depth + flags_.max_new_tokens / 2);
  note(result.metric, result.actual, "tok/s");
}

void Experiment::count_step(Result& result, std::int64_t position) {
  const StepTraffic step =
      step_traffic(subject_.backend(), subject_.decoder(), flags_.dtype, 1, position);
  const double bytes = step.model_bytes() + step.cache_bytes();
  result.ceiling = read_gb_per_s() * 1e9 / bytes;
  result.work = {.flops = step.flops(), .bytes = bytes, .seconds = 1 / result.actual};
}

Result& Experiment::add(const std::string& metric, std::vector<double> values,
                        const Telemetry& telemetry) {
  Result result = context_.row(subject_.label(), metric, dtype_label(flags_));
  result.is_model = true;
  result.actual = mean(values);
  result.values = std::move(values);
  result.telemetry = telemetry;
  result.columns = {{"layers", subject_.decoder().config().layers},
                    {"weights", subject_.source()},
                    {"prompt_tokens", flags_.prompt_len},
                    {"new_tokens", flags_.max_new_tokens},
                    {"compute_dtype", std::string(dtype_name(flags_.dtype))},
                    {"commit", context_.commit}};
  results_.push_back(std::move(result));
  return results_.back();
}

void Experiment::note(const std::string& what, double value, const char* unit) const {
  char number[32];
  std::snprintf(number, sizeof(number), "%.2f", value);
  print_note(
      concat(subject_.label(), " ", dtype_label(flags_), ", ", what, ": ", number, " ", unit));
}

}  // namespace

ModelTargets targets_for(const BenchFlags& flags, const ModelSpec& spec) {
  const std::int64_t layers = spec.config().layers;
  const bool theirs = flags.model.empty() && flags.dtype == DType::kBF16 &&
                      flags.max_new_tokens == kTargetTokens &&
                      flags.prompt_len == static_cast<std::int64_t>(kPrompt.size()) &&
                      flags.layers.value_or(layers) == layers;
  if (!theirs) return {};
  return flags.int8 ? spec.int8 : spec.bf16;
}

std::vector<std::int32_t> prompt_ids(std::int64_t count, std::int64_t vocab, std::uint64_t seed) {
  std::vector<std::int32_t> ids;
  for (std::int64_t i = 0; i < count; ++i) {
    const auto at = static_cast<std::size_t>(i);
    const std::int64_t id =
        at < kPrompt.size()
            ? kPrompt[at]
            : philox4x32({{static_cast<std::uint32_t>(i), 0, 0, 0}}, seed).word[0] >> 1;
    ids.push_back(static_cast<std::int32_t>(id % vocab));
  }
  return ids;
}

std::vector<Result> run_model(const RunContext& context, const BenchFlags& flags,
                              const ModelSpec& spec) {
  return Experiment(context, flags, spec).run();
}

}  // namespace engine::bench
