// engine_generate: a Hugging Face checkpoint and a prompt in, text out.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdlib>
#include <exception>
#include <filesystem>
#include <memory>
#include <new>
#include <optional>
#include <random>
#include <string>
#include <system_error>
#include <vector>

#include "engine/cli/device_choice.h"
#include "engine/cli/options.h"
#include "engine/cli/output.h"
#include "engine/cli/progress.h"
#include "engine/cli/prompt.h"
#include "engine/cli/report.h"
#include "engine/cli/signals.h"
#include "engine/io/npy.h"
#include "engine/io/tokenizer.h"
#include "engine/model/generation_config.h"
#include "engine/runtime/generate.h"
#include "engine/runtime/model_loader.h"
#include "engine/runtime/perplexity.h"
#include "engine/runtime/sampling_options.h"
#include "engine/runtime/session.h"
#include "engine/version.h"
#include "kernels/backend.h"
#include "kernels/core/check.h"

namespace engine {
namespace {

int exit_code(ErrorKind kind) {
  switch (kind) {
    case ErrorKind::kUsage:
      return 2;
    case ErrorKind::kModel:
      return 3;
    case ErrorKind::kUnsupported:
      return 4;
    case ErrorKind::kMemory:
      return 5;
    case ErrorKind::kDevice:
      return 6;
    case ErrorKind::kIo:
    case ErrorKind::kNumeric:
    case ErrorKind::kInternal:
      return 1;
  }
  return 1;
}

// One run with a model: from flags to text. The members are in the order that destruction wants.
class Run {
 public:
  Run(const GenerateFlags& flags, const SignalWatcher& signals)
      : flags_(flags), signals_(signals), directory_(flags.model_dir) {}

  int execute();

 private:
  void open();
  void choose_context();
  void check_memory();
  void load();
  void write_logits();
  int run_perplexity();
  int run_generation();
  RunFacts facts() const;

  const GenerateFlags& flags_;
  const SignalWatcher& signals_;
  std::filesystem::path directory_;
  std::unique_ptr<Backend> backend_;
  std::unique_ptr<Tokenizer> tokenizer_;
  GenerationConfig generation_config_;
  std::optional<ModelLoader> loader_;
  const Decoder* decoder_ = nullptr;
  SessionOptions options_;
  SessionMemory session_memory_;
  std::optional<Session> session_;
  std::vector<std::int32_t> prompt_;  // or the text to score
  SamplingChoice sampling_;
  double load_s_ = 0;
};

// Everything that can fail without touching a device or reading weights comes first.
void Run::open() {
  std::error_code ignored;
  ENGINE_CHECK(std::filesystem::is_directory(directory_, ignored), ErrorKind::kModel,
               flags_.model_dir, ": not a directory; expected a Hugging Face checkpoint");
  loader_.emplace(directory_);
  generation_config_ = load_generation_config(directory_).value_or(GenerationConfig{});
  sampling_ = choose_sampling(flags_.sampling, generation_config_);
  sampling_.params.seed =
      flags_.seed.value_or((std::uint64_t{std::random_device{}()} << 32) | std::random_device{}());

  const bool needs_text = !flags_.prompt_tokens || !flags_.perplexity.empty();
  if (needs_text || has_tokenizer(directory_)) {
    tokenizer_ = load_tokenizer(directory_);
    const std::string warning = check_tokenizer(*tokenizer_, loader_->config());
    if (!warning.empty()) print_note(warning);
  } else {
    print_note("no tokenizer in " + flags_.model_dir + ": ids are printed instead of text");
  }
  if (flags_.prompt_tokens) {
    prompt_ = parse_prompt_tokens(*flags_.prompt_tokens);
  } else if (!flags_.perplexity.empty()) {
    prompt_ = tokenizer_->encode(read_text_file(flags_.perplexity), false);
  } else {
    prompt_ = encode_prompt(*tokenizer_, read_prompt_text(flags_), flags_);
  }
  for (const std::int32_t id : prompt_) {
    ENGINE_CHECK(id < loader_->config().vocab, ErrorKind::kUsage, "the prompt has token id ", id,
                 ", the model's vocabulary ", loader_->config().vocab, " tokens");
  }
}

void Run::choose_context() {
  const std::int64_t limit = loader_->config().max_positions;
  const auto size = static_cast<std::int64_t>(prompt_.size());
  ENGINE_CHECK(flags_.max_context.value_or(1) <= limit, ErrorKind::kUsage,
               "--max-context: ", *flags_.max_context, " is more than the model's limit of ", limit,
               " positions");
  if (!flags_.perplexity.empty()) {
    options_.max_context = flags_.max_context.value_or(std::min(limit, size + 1));
    return;
  }
  const std::int64_t room = flags_.max_context.value_or(limit);
  ENGINE_CHECK(size <= room, ErrorKind::kUsage, "the prompt has ", size, " tokens, the context ",
               room, flags_.max_context ? " (--max-context)" : " (the model's limit)");
  // size + N without overflow: N is at most 2⁶³ − 1.
  const std::int64_t wanted = size + std::min(flags_.max_new_tokens, room - size);
  options_.max_context = flags_.max_context.value_or(wanted);
}

void Run::check_memory() {
  session_memory_ = Session::memory(*backend_, *decoder_, options_);
  const std::size_t need =
      checked_add(loader_->device_bytes(), session_memory_.total(), "memory needed");
  const MemoryInfo memory = backend_->memory();
  if (flags_.dry_run) {
    write_stdout(concat("weights    ", human_bytes(loader_->device_bytes()), " (",
                        human_bytes(loader_->file_bytes()), " to read)\nKV cache   ",
                        human_bytes(session_memory_.kv_cache), " for ", options_.max_context,
                        " positions\nworkspace  ",
                        human_bytes(session_memory_.workspace + session_memory_.state),
                        "\ntotal      ", human_bytes(need), ", ", human_bytes(memory.free),
                        " free on ", to_string(backend_->device()), "\n"));
  }
  ENGINE_CHECK(need <= memory.free, ErrorKind::kMemory, to_string(backend_->device()), ": need ",
               need, " bytes (weights ", loader_->device_bytes(), ", KV cache ",
               session_memory_.kv_cache, " for ", options_.max_context, " positions), ",
               memory.free, " are free; --max-context N makes the cache smaller");
}

void Run::load() {
  const auto start = std::chrono::steady_clock::now();
  {
    ProgressBar bar("loading", loader_->file_bytes());
    loader_->load(*backend_, [&](std::size_t bytes) {
      bar.update(bytes);
      if (signals_.interrupt()->load()) throw Interrupted{};
    });
  }
  session_.emplace(*backend_, *decoder_, options_);
  session_->set_sampling(sampling_.params);
  load_s_ = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

RunFacts Run::facts() const {
  return {.model_dir = flags_.model_dir,
          .device = to_string(backend_->device()),
          .dtype = std::string(dtype_name(options_.dtype)),
          .seed = sampling_.params.seed,
          .sampling = sampling_.params,
          .load_s = load_s_,
          .memory = {.weights = loader_->device_bytes(),
                     .kv_cache = session_memory_.kv_cache,
                     .workspace = session_memory_.workspace + session_memory_.state,
                     .peak = backend_->peak_bytes()}};
}

void Run::write_logits() {
  NpyWriter file(flags_.logits, static_cast<std::int64_t>(prompt_.size()), session_->vocab());
  session_->prefill(prompt_, false, [&](std::int64_t first, std::span<const float> rows) {
    const auto bad =
        std::find_if(rows.begin(), rows.end(), [](float logit) { return !std::isfinite(logit); });
    ENGINE_CHECK(bad == rows.end(), ErrorKind::kNumeric, "the logits of position ",
                 first + (bad - rows.begin()) / session_->vocab(),
                 " are NaN or infinite: the weights are damaged or overflow this "
                 "--dtype");
    file.append(rows);
  });
  file.close();
  session_->reset();
}

int Run::run_perplexity() {
  const std::optional<std::int32_t> bos = flags_.no_bos ? std::nullopt : tokenizer_->bos_id();
  ProgressBar bar("scoring", prompt_.size());
  const Perplexity result = perplexity(*session_, prompt_, bos, [&](std::int64_t tokens) {
    bar.update(static_cast<std::size_t>(tokens));
    if (signals_.interrupt()->load()) throw Interrupted{};
  });
  write_stdout(flags_.json ? perplexity_json(facts(), result)
                           : concat("perplexity ", result.perplexity, ", mean NLL ",
                                    result.mean_nll, " nats, ", result.tokens, " tokens\n"));
  return 0;
}

int Run::run_generation() {
  print_note("sampling: " + sampling_.description + concat("; seed ", sampling_.params.seed));
  if (!flags_.logits.empty()) write_logits();
  GenerateOptions options = {.max_new_tokens = flags_.max_new_tokens,
                             .eos_ids = {},
                             .stop = flags_.stop,
                             .lookahead = backend_->device().kind == DeviceKind::kCuda ? 1 : 0,
                             .interrupt = signals_.interrupt()};
  if (!flags_.ignore_eos) {
    options.eos_ids = eos_ids(loader_->config(), generation_config_, tokenizer_.get());
  }
  const Generation generation =
      generate(*session_, tokenizer_.get(), prompt_, options, [&](std::string_view text) {
        if (!flags_.json) write_stdout(text);
      });
  write_stdout(flags_.json ? generation_json(facts(), prompt_, generation) : "\n");
  print_note(generation_summary(generation));
  return generation.stop_reason == StopReason::kInterrupted ? signals_.exit_code() : 0;
}

int Run::execute() {
  open();
  const DeviceChoice choice = choose_device(flags_.device);
  options_.dtype = choose_dtype(flags_.dtype, loader_->stored_dtype(), choice.device);
  options_.replay = !flags_.eager;
  choose_context();
  decoder_ = &loader_->bind(options_.dtype);
  backend_ =
      make_backend(choice.device, {.threads = flags_.threads, .interrupt = signals_.interrupt()});
  print_note("device: " + to_string(choice.device) + " (" + backend_->description() + "), " +
             choice.reason);
  check_memory();
  if (flags_.dry_run) return 0;
  try {
    load();
    return flags_.perplexity.empty() ? run_generation() : run_perplexity();
  } catch (const Interrupted&) {
    return signals_.exit_code();
  }
}

int run_tokenize(const GenerateFlags& flags) {
  const std::unique_ptr<Tokenizer> tokenizer = load_tokenizer(flags.model_dir);
  if (!flags.stdin_json) {
    write_stdout(ids_json(tokenizer->encode(read_prompt_text(flags), !flags.no_bos)));
    return 0;
  }
  std::vector<std::vector<std::int32_t>> all;
  for (const std::string& text : parse_texts(read_text_file("-"))) {
    all.push_back(tokenizer->encode(text, !flags.no_bos));
  }
  write_stdout(ids_json(all));
  return 0;
}

int run(int argc, const char* const* argv, const SignalWatcher& signals) {
  const std::optional<GenerateFlags> flags = parse_generate_flags(argc, argv);
  if (!flags) return 0;
  if (flags->version) {
    write_stdout(version_text() + "\nCPU ISA: " + cpu_isa_name() + "\n");
    return 0;
  }
  if (flags->list_devices) {
    std::string problem;
    const std::vector<DeviceInfo> devices = list_devices(&problem);
    write_stdout(device_table(devices, problem));
    return 0;
  }
  if (flags->tokenize) return run_tokenize(*flags);
  return Run(*flags, signals).execute();
}

}  // namespace
}  // namespace engine

int main(int argc, char** argv) {
  engine::reserve_standard_streams();
  try {
    const engine::SignalWatcher signals;
    return engine::run(argc, argv, signals);
  } catch (const engine::BrokenPipe&) {
    return 1;
  } catch (const engine::Error& error) {
    engine::print_error(error.what());
    return engine::exit_code(error.kind());
  } catch (const std::bad_alloc&) {
    engine::print_error("out of host memory");
    return engine::exit_code(engine::ErrorKind::kMemory);
  } catch (const std::system_error& error) {
    // What a thread that the system has no memory for throws.
    const bool memory = error.code() == std::errc::resource_unavailable_try_again ||
                        error.code() == std::errc::not_enough_memory;
    engine::print_error(error.what());
    return engine::exit_code(memory ? engine::ErrorKind::kMemory : engine::ErrorKind::kInternal);
  } catch (const std::exception& error) {
    engine::print_error(error.what());
    return 1;
  }
}
