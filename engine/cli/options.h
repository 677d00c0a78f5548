// The flags of engine_generate.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "engine/runtime/sampling_options.h"

namespace engine {

struct GenerateFlags {
  std::string model_dir;
  std::optional<std::string> prompt, prompt_file, prompt_tokens;
  std::int64_t max_new_tokens = 200;
  SamplingFlags sampling;
  std::optional<std::uint64_t> seed;
  std::vector<std::string> stop;
  bool ignore_eos = false;
  std::string device = "auto";
  std::string dtype = "auto";
  bool int8 = false;
  std::optional<std::int64_t> max_context;
  int threads = 0;
  bool eager = false;
  bool json = false;
  bool tokenize = false;
  bool no_bos = false;
  bool stdin_json = false;
  std::string logits;      // file; empty: not wanted
  std::string perplexity;  // file; empty: not wanted
  bool dry_run = false;
  bool list_devices = false;
  bool version = false;
};

// What the command line asks for, or the code to exit with at once (0 after --help, which is
// printed on stdout). Throws Error{kUsage} naming the flag.
std::optional<GenerateFlags> parse_generate_flags(int argc, const char* const* argv);

}  // namespace engine
