// generation_config.json: the sampling that a checkpoint's makers suggest, and its special ids.
//
// Only what the file says counts: an absent field, and one that is null, stays empty. Fields that
// this struct lacks (beams, penalties of other kinds) are skipped. A malformed one is Error{kModel}
// with file, field, expected and found.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace engine {

struct GenerationConfig {
  std::optional<bool> do_sample;             // false: greedy, whatever the rest says
  std::optional<double> temperature;         // >= 0
  std::optional<std::int64_t> top_k;         // >= 0; 0 keeps all
  std::optional<double> top_p;               // [0, 1]
  std::optional<double> min_p;               // [0, 1]
  std::optional<double> repetition_penalty;  // > 0
  std::optional<std::int64_t> bos_id;
  std::vector<std::int64_t> eos_ids;  // empty: the file names none
};

// Parses the text of a generation_config.json; `file` is its name in messages.
GenerationConfig parse_generation_config(std::string_view text, const std::string& file);

// Reads generation_config.json of a checkpoint directory; nothing when there is none.
std::optional<GenerationConfig> load_generation_config(const std::filesystem::path& directory);

}  // namespace engine
