#include "bench/options.h"

#include <algorithm>
#include <charconv>
#include <limits>
#include <string_view>

#include "engine/cli/flag_values.h"
#include "engine/cli/output.h"
#include "kernels/core/check.h"
#include "kernels/core/score_function.h"

namespace engine::bench {
namespace {

constexpr std::int64_t kMostTokens = 1 << 24;
constexpr std::int64_t kMostSamples = 100000;
constexpr std::int64_t kMostLayers = 4096;

// What stands on the command line before it is understood.
struct RawFlags {
  std::string dtype = "bf16", format = "table", prefill, depth;
  std::string batch, heads, seq, head_dim, mods, pad;
};

std::vector<std::int64_t> parse_list(const char* flag, const std::string& list,
                                     std::int64_t least) {
  std::vector<std::int64_t> numbers;
  std::size_t begin = 0;
  while (begin <= list.size()) {
    const std::size_t end = std::min(list.find(',', begin), list.size());
    std::int64_t value = 0;
    const char* stop = list.data() + end;
    const auto [at, error] = std::from_chars(list.data() + begin, stop, value);
    ENGINE_CHECK(error == std::errc() && at == stop && value >= least && value <= kMostTokens,
                 ErrorKind::kUsage, flag, ": expected whole numbers from ", least, " to ",
                 kMostTokens, " with commas between them, found '", list, "'");
    numbers.push_back(value);
    begin = end + 1;
  }
  return numbers;
}

DType parse_dtype(const std::string& name) {
  for (const DType dtype : {DType::kBF16, DType::kF16, DType::kF32}) {
    if (name == dtype_name(dtype)) return dtype;
  }
  fail(ErrorKind::kUsage, "--dtype: expected bf16, f16 or f32, found '", name, "'");
}

OutputFormat parse_format(const std::string& name) {
  if (name == "table") return OutputFormat::kTable;
  if (name == "md") return OutputFormat::kMarkdown;
  if (name == "csv") return OutputFormat::kCsv;
  if (name == "json") return OutputFormat::kJson;
  fail(ErrorKind::kUsage, "-o: expected table, md, csv or json, found '", name, "'");
}

void add_model_flags(CLI::App& app, BenchFlags& flags, RawFlags& raw) {
  const char* group = "What is measured";
  app.add_flag("--int8", flags.int8,
               "Quantise linear weights: per-output-channel symmetric int8. --int8")
      ->group(group);
  app.add_option("--dtype", raw.dtype,
                 "Weights, activations and KV cache: bf16, f16 or f32 [bf16]. --dtype f16")
      ->type_name("TYPE")
      ->group(group);
  app.add_option("--layers", flags.layers, "Layers of a model [the experiment's]. --layers 32")
      ->type_name("N")
      ->check(whole_number<std::int64_t>(1, kMostLayers))
      ->group(group);
  app.add_option("--model", flags.model,
                 "A real checkpoint in place of synthetic weights. --model ~/Llama-2-7b-chat-hf")
      ->type_name("DIR")
      ->group(group);
  app.add_option("--text", flags.text, "The text of `fidelity`. --text README.md")
      ->type_name("FILE")
      ->group(group);
  app.add_option("--seed", flags.seed, "Of weights and sampling [1234]. --seed 7")
      ->type_name("S")
      ->check(whole_number<std::uint64_t>(0, std::numeric_limits<std::uint64_t>::max()))
      ->group(group);
}

void add_size_flags(CLI::App& app, BenchFlags& flags, RawFlags& raw) {
  const char* group = "How much of it";
  app.add_option(
         "--samples", flags.samples,
         "Timed runs of a model, after an untimed one [5]; of a kernel at least 20. --samples 3")
      ->type_name("N")
      ->check(whole_number<std::int64_t>(1, kMostSamples))
      ->group(group);
  app.add_flag("--steady", flags.steady,
               "Time kernels as graph replays over rotating buffers, not cold. --steady")
      ->group(group);
  app.add_option("-n,--max-new-tokens", flags.max_new_tokens,
                 "Tokens that a run draws [200]. --max-new-tokens 64")
      ->type_name("N")
      ->check(whole_number<std::int64_t>(1, kMostTokens))
      ->group(group);
  app.add_option("--prompt-len", flags.prompt_len, "Tokens of the prompt [6]. --prompt-len 512")
      ->type_name("N")
      ->check(whole_number<std::int64_t>(1, kMostTokens))
      ->group(group);
  app.add_option("--prefill", raw.prefill,
                 "Prompts to time by themselves; none: no such rows [GPU: 512,2048,4096; CPU: "
                 "none]. --prefill 128")
      ->type_name("N,...")
      ->group(group);
  app.add_option("--depth", raw.depth,
                 "Tokens in the cache at which to time decoding; none: no such rows [GPU: "
                 "0,1024,4096; CPU: none]. --depth 0,1024")
      ->type_name("N,...")
      ->group(group);
}

void add_attention_flags(CLI::App& app, BenchFlags& flags, RawFlags& raw) {
  const char* group = "Sizes of sdp and score_mod";
  const auto list = [&](const char* name, std::string& to, const char* what) {
    app.add_option(name, to, what)->type_name("N,...")->group(group);
  };
  list("--batch", raw.batch, "Sequences [the experiment's]. --batch 2,8");
  list("--heads", raw.heads, "Heads [the experiment's]. --heads 16");
  list("--seq", raw.seq, "Positions of a sequence [the experiment's]. --seq 512,4096");
  list("--head-dim", raw.head_dim, "Size of a head [the experiment's]. --head-dim 64");
  list("--pad", raw.pad, "sdp: shares of padding, 0 for none [0,0.9]. --pad 0.5");
  app.add_option("--mods", raw.mods,
                 "score_mod: score functions [noop,causal,rel,head_bias]. --mods rel,soft_cap")
      ->type_name("NAME,...")
      ->group(group);
  app.add_flag("--backward", flags.backward, "score_mod: time the gradients too. --backward")
      ->group(group);
}

void add_run_flags(CLI::App& app, BenchFlags& flags, RawFlags& raw) {
  const char* group = "Where it runs and what it prints";
  app.add_option("--device", flags.device, "auto, cpu, cuda or cuda:N [auto]. --device cuda:1")
      ->type_name("DEVICE")
      ->group(group);
  app.add_option("--threads", flags.threads, "CPU threads [physical cores]. --threads 4")
      ->type_name("N")
      ->check(whole_number<std::int64_t>(1, 1024))
      ->group(group);
  app.add_option("-o", raw.format, "Format on stdout: table, md, csv or json [table]. -o json")
      ->type_name("FORMAT")
      ->group(group);
  app.add_option("--output", flags.output,
                 "Append the results to FILE.csv, and as JSON to FILE.json. --output results.csv")
      ->type_name("FILE.csv")
      ->group(group);
  app.add_option("--report", flags.report,
                 "Write a page of the run, self-contained: bars of results against targets, peers "
                 "and ceilings, a roofline, tables. --report results.html")
      ->type_name("FILE.html")
      ->group(group);
  app.add_option("--picture", flags.picture,
                 "Write the page's headlines and roofline as one picture. --picture results.svg")
      ->type_name("FILE.svg")
      ->group(group);
  app.add_flag("--list", flags.list, "Print the experiments with their targets and exit. --list")
      ->group(group);
  app.add_flag("--version", flags.version, "Print version and build and exit. --version")
      ->group(group);
}

// "none" is an empty list.
std::optional<std::vector<std::int64_t>> optional_list(const char* flag, const std::string& list,
                                                       std::int64_t least) {
  if (list.empty()) return std::nullopt;
  if (list == "none") return std::vector<std::int64_t>{};
  return parse_list(flag, list, least);
}

std::vector<std::string> split_list(const std::string& list) {
  std::vector<std::string> words;
  std::size_t begin = 0;
  while (!list.empty() && begin <= list.size()) {
    const std::size_t end = std::min(list.find(',', begin), list.size());
    words.push_back(list.substr(begin, end - begin));
    begin = end + 1;
  }
  return words;
}

std::optional<std::vector<double>> parse_shares(const char* flag, const std::string& list) {
  if (list.empty()) return std::nullopt;
  std::vector<double> shares;
  for (const std::string& word : split_list(list)) {
    double share = 0;
    const auto [at, error] = std::from_chars(word.data(), word.data() + word.size(), share);
    ENGINE_CHECK(error == std::errc() && at == word.data() + word.size() && share >= 0 && share < 1,
                 ErrorKind::kUsage, flag,
                 ": expected numbers from 0 to below 1 with commas between them, found '", list,
                 "'");
    shares.push_back(share);
  }
  return shares;
}

std::vector<std::string> parse_mods(const std::string& list) {
  std::vector<std::string> mods = split_list(list);
  for (const std::string& mod : mods) {
    std::string known;
    bool found = false;
    for (const ScoreKind kind : kScoreKinds) {
      known += (known.empty() ? "" : ", ") + std::string(score_name(kind));
      found = found || mod == score_name(kind);
    }
    ENGINE_CHECK(found, ErrorKind::kUsage, "--mods: unknown score function '", mod, "'; known are ",
                 known);
  }
  return mods;
}

}  // namespace

std::optional<BenchFlags> parse_bench_flags(int argc, const char* const* argv) {
  BenchFlags flags;
  RawFlags raw;
  CLI::App app(
      "Benchmarks of the engine, against the targets of an A100 and the ceilings of the machine.\n"
      "Example: engine_bench llama2-7b --int8\n"
      "         engine_bench compare before.csv after.csv",
      "engine_bench");
  app.set_help_flag("-h,--help", "Print this and exit. --help");
  app.add_option("EXPERIMENT", flags.words,
                 "What to run; see --list. Or `compare A.csv B.csv`: the ratio of each result")
      ->type_name("");
  add_model_flags(app, flags, raw);
  add_size_flags(app, flags, raw);
  add_attention_flags(app, flags, raw);
  add_run_flags(app, flags, raw);
  try {
    app.parse(argc, argv);
  } catch (const CLI::CallForHelp&) {
    write_stdout(app.help());
    return std::nullopt;
  } catch (const CLI::ParseError& error) {
    fail(ErrorKind::kUsage, error.what());
  }
  flags.dtype = parse_dtype(raw.dtype);
  flags.format = parse_format(raw.format);
  flags.prefill = optional_list("--prefill", raw.prefill, 1);
  flags.depth = optional_list("--depth", raw.depth, 0);
  flags.batch = optional_list("--batch", raw.batch, 1);
  flags.heads = optional_list("--heads", raw.heads, 1);
  flags.seq = optional_list("--seq", raw.seq, 1);
  flags.head_dim = optional_list("--head-dim", raw.head_dim, 1);
  flags.pad = parse_shares("--pad", raw.pad);
  flags.mods = parse_mods(raw.mods);
  const bool standalone = flags.list || flags.version;
  ENGINE_CHECK(standalone || !flags.words.empty(), ErrorKind::kUsage,
               "expected an EXPERIMENT; --list shows them");
  const bool measures = !standalone && flags.words.front() != "compare";
  ENGINE_CHECK(measures || (flags.report.empty() && flags.picture.empty()), ErrorKind::kUsage,
               flags.report.empty() ? "--picture" : "--report",
               ": expected an experiment to report, found none");
  return flags;
}

}  // namespace engine::bench
