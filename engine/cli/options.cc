#include "engine/cli/options.h"

#include <CLI/CLI.hpp>
#include <cstdint>
#include <limits>

#include "engine/cli/flag_values.h"
#include "engine/cli/output.h"
#include "kernels/core/check.h"

namespace engine {
namespace {

constexpr std::int64_t kMost = std::numeric_limits<std::int64_t>::max();

void add_prompt_flags(CLI::App& app, GenerateFlags& flags) {
  const char* group = "Prompt (one of these, or text piped to stdin)";
  app.add_option("-p,--prompt", flags.prompt,
                 "The text to go on from; \"\" is BOS alone. -p \"Once upon a time\"")
      ->type_name("TEXT")
      ->group(group);
  app.add_option("-f,--prompt-file", flags.prompt_file,
                 "Read it from a file, - for stdin. -f prompt.txt")
      ->type_name("FILE")
      ->group(group);
  app.add_option("--prompt-tokens", flags.prompt_tokens,
                 "The prompt as token ids; nothing is added. --prompt-tokens 1,403,407")
      ->type_name("IDS")
      ->group(group);
  app.add_flag("--no-bos", flags.no_bos, "Leave out the beginning-of-sequence token. --no-bos")
      ->group(group);
}

void add_sampling_flags(CLI::App& app, GenerateFlags& flags) {
  const char* group = "Sampling (defaults: generation_config.json, else as shown)";
  SamplingFlags& sampling = flags.sampling;
  app.add_option("-n,--max-new-tokens", flags.max_new_tokens,
                 "Stop after this many new tokens; 0: prefill only [200]. -n 64")
      ->type_name("N")
      ->check(whole_number<std::int64_t>(0, kMost))
      ->group(group);
  app.add_option("--temperature", sampling.temperature, "0 is greedy [0.8]. --temperature 0")
      ->type_name("T")
      ->check(real_number())
      ->group(group);
  app.add_option("--top-k", sampling.top_k,
                 "Keep the K most probable tokens; 0: all [200]. --top-k 50")
      ->type_name("K")
      ->check(whole_number<std::int64_t>(0, std::numeric_limits<std::int32_t>::max()))
      ->group(group);
  app.add_option("--top-p", sampling.top_p,
                 "Keep the most probable tokens of this total mass [1]. --top-p 0.9")
      ->type_name("P")
      ->check(real_number())
      ->group(group);
  app.add_option("--min-p", sampling.min_p,
                 "Drop tokens under this share of the best one's probability [0]. --min-p 0.05")
      ->type_name("P")
      ->check(real_number())
      ->group(group);
  app.add_option("--repetition-penalty", sampling.repetition_penalty,
                 "Over prompt and output [1]. --repetition-penalty 1.1")
      ->type_name("R")
      ->check(real_number())
      ->group(group);
  app.add_option(
         "--seed", flags.seed,
         "Random seed: the same seed, device and build give the same ids [random]. --seed 7")
      ->type_name("S")
      ->check(whole_number<std::uint64_t>(0, std::numeric_limits<std::uint64_t>::max()))
      ->group(group);
  app.add_option("--stop", flags.stop, "End before this text; may be repeated. --stop \"The end\"")
      ->type_name("TEXT")
      ->allow_extra_args(false)
      ->group(group);
  app.add_flag("--ignore-eos", flags.ignore_eos,
               "Go on after an end-of-sequence token. --ignore-eos")
      ->group(group);
}

void add_run_flags(CLI::App& app, GenerateFlags& flags) {
  const char* group = "Where and how to run";
  app.add_option("--device", flags.device, "auto, cpu, cuda or cuda:N [auto]. --device cuda:1")
      ->type_name("DEVICE")
      ->group(group);
  app.add_option("--dtype", flags.dtype,
                 "Weights, activations and KV cache: auto, bf16, f16 or f32 [auto: as stored; f32 "
                 "checkpoints: bf16 on CUDA]. --dtype f32")
      ->type_name("TYPE")
      ->group(group);
  app.add_flag("--int8", flags.int8,
               "Quantise linear weights (projections, feed-forward, experts, output head) while "
               "loading, to int8 with a scale per output channel. --int8")
      ->group(group);
  app.add_option("--max-context", flags.max_context,
                 "Length of the KV cache [prompt + new tokens, at most the model's limit]. "
                 "--max-context 4096")
      ->type_name("N")
      ->check(whole_number<std::int64_t>(1, kMost))
      ->group(group);
  app.add_option("--threads", flags.threads, "CPU threads [physical cores]. --threads 4")
      ->type_name("N")
      ->check(whole_number<std::int64_t>(1, 1024))
      ->group(group);
  app.add_flag("--eager", flags.eager,
               "Issue every decode step op by op instead of replaying a recorded one; the ids are "
               "the same. --eager")
      ->group(group);
}

void add_output_flags(CLI::App& app, GenerateFlags& flags) {
  const char* group = "What to print";
  app.add_flag("--json", flags.json, "One JSON object instead of text. --json")->group(group);
  app.add_flag("--tokenize", flags.tokenize,
               "Print the prompt's ids as a JSON array and exit; MODEL_DIR needs no more than the "
               "tokenizer's files. --tokenize -p Hello")
      ->group(group);
  app.add_flag("--stdin-json", flags.stdin_json,
               "With --tokenize: read a JSON array of texts, print an array of arrays. "
               "--tokenize --stdin-json")
      ->group(group);
  app.add_option("--logits", flags.logits,
                 "Write the float32 logits of every prompt position, [T, V], as NumPy. "
                 "--logits out.npy")
      ->type_name("FILE.npy")
      ->group(group);
  app.add_option("--perplexity", flags.perplexity,
                 "Score a text: mean negative log-likelihood and perplexity. --perplexity text.txt")
      ->type_name("FILE")
      ->group(group);
  app.add_flag("--dry-run", flags.dry_run,
               "Print what would be loaded and the memory it needs, then exit. --dry-run")
      ->group(group);
  app.add_flag("--list-devices", flags.list_devices, "Print the devices and exit. --list-devices")
      ->group(group);
  app.add_flag("--version", flags.version, "Print version and build and exit. --version")
      ->group(group);
}

void check_combinations(const GenerateFlags& flags) {
  const int prompts = int{flags.prompt.has_value()} + int{flags.prompt_file.has_value()} +
                      int{flags.prompt_tokens.has_value()};
  ENGINE_CHECK(prompts <= 1, ErrorKind::kUsage,
               "--prompt, --prompt-file and --prompt-tokens: expected one of them, found ",
               prompts);
  ENGINE_CHECK(!flags.stdin_json || flags.tokenize, ErrorKind::kUsage,
               "--stdin-json: expected with --tokenize only");
  ENGINE_CHECK(!flags.stdin_json || prompts == 0, ErrorKind::kUsage,
               "--stdin-json: the texts come from stdin, found another prompt too");
  ENGINE_CHECK(!flags.tokenize || !flags.prompt_tokens, ErrorKind::kUsage,
               "--tokenize: expected a text, found --prompt-tokens");
  ENGINE_CHECK(flags.perplexity.empty() || (prompts == 0 && flags.logits.empty()),
               ErrorKind::kUsage, "--perplexity: expected no prompt and no --logits beside it");
  for (const std::string& stop : flags.stop) {
    ENGINE_CHECK(!stop.empty(), ErrorKind::kUsage, "--stop: expected a text, found an empty one");
  }
  const bool standalone = flags.list_devices || flags.version;
  ENGINE_CHECK(standalone || !flags.model_dir.empty(), ErrorKind::kUsage,
               "expected a MODEL_DIR, a Hugging Face checkpoint; see --help");
}

}  // namespace

std::optional<GenerateFlags> parse_generate_flags(int argc, const char* const* argv) {
  GenerateFlags flags;
  CLI::App app(
      "Text from a Hugging Face LLaMA, Mistral or Mixtral checkpoint.\n"
      "Example: engine_generate models/stories-3m -p \"Once upon a time\"",
      "engine_generate");
  app.set_help_flag("-h,--help", "Print this and exit. --help");
  app.add_option("MODEL_DIR", flags.model_dir,
                 "Checkpoint directory: config.json, safetensors, tokenizer")
      ->type_name("");
  add_prompt_flags(app, flags);
  add_sampling_flags(app, flags);
  add_run_flags(app, flags);
  add_output_flags(app, flags);
  try {
    app.parse(argc, argv);
  } catch (const CLI::CallForHelp&) {
    write_stdout(app.help());
    return std::nullopt;
  } catch (const CLI::ParseError& error) {
    fail(ErrorKind::kUsage, error.what());
  }
  check_combinations(flags);
  return flags;
}

}  // namespace engine
