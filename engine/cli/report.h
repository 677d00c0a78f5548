// What a run prints about itself: JSON on stdout, notes on stderr.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "engine/io/tokenizer.h"
#include "engine/runtime/generate.h"
#include "engine/runtime/perplexity.h"
#include "kernels/backend.h"

namespace engine {

struct RunMemory {
  std::size_t weights = 0, kv_cache = 0, workspace = 0, peak = 0;  // bytes
};

// The facts of a run that its report repeats.
struct RunFacts {
  std::string model_dir;
  std::string device;
  std::string dtype;
  std::string weights;  // the format of linear weights: "int8", or as dtype
  std::uint64_t seed = 0;
  SamplingParams sampling;
  double load_s = 0;
  RunMemory memory;
};

// The object of --json, one line and a newline.
std::string generation_json(const RunFacts& facts, std::span<const std::int32_t> prompt,
                            const Generation& generation);
std::string perplexity_json(const RunFacts& facts, const Perplexity& result);

// "12 tokens, 34.5 tok/s, …": the line after a generation.
std::string generation_summary(const Generation& generation);

// A JSON array of ids; one of such arrays for several texts.
std::string ids_json(std::span<const std::int32_t> ids);
std::string ids_json(const std::vector<std::vector<std::int32_t>>& texts);
// The texts of a JSON array of strings. Throws Error{kUsage}.
std::vector<std::string> parse_texts(const std::string& json);

// The table of --list-devices.
std::string device_table(const std::vector<DeviceInfo>& devices, const std::string& cuda_problem);

// "1.5 GB", "340 MB", "12 kB" (powers of ten).
std::string human_bytes(std::size_t bytes);

}  // namespace engine
