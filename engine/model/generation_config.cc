#include "engine/model/generation_config.h"

#include <limits>
#include <system_error>

#include "engine/io/file.h"
#include "engine/io/json.h"
#include "engine/model/json_fields.h"

namespace engine {
namespace {

constexpr std::uint64_t kMaxFileBytes = std::uint64_t{16} << 20;
constexpr std::int64_t kMaxId = std::numeric_limits<std::int32_t>::max();
constexpr RealRange kTemperature = {0.0, 1e6};
constexpr RealRange kProbability = {0.0, 1.0};
constexpr RealRange kPenalty = {0.0, 1e6, true};

}  // namespace

GenerationConfig parse_generation_config(std::string_view text, const std::string& file) {
  const Json json = parse_json(text, file);
  const JsonFields fields(json, file);
  GenerationConfig config;
  if (fields.value("do_sample") != nullptr) {
    config.do_sample = fields.boolean("do_sample");
  }
  config.temperature = fields.nullable_real("temperature", kTemperature);
  config.top_k = fields.nullable_integer("top_k", 0, kMaxId);
  config.top_p = fields.nullable_real("top_p", kProbability);
  config.min_p = fields.nullable_real("min_p", kProbability);
  config.repetition_penalty = fields.nullable_real("repetition_penalty", kPenalty);
  config.bos_id = fields.nullable_integer("bos_token_id", 0, kMaxId);
  config.eos_ids = fields.integers("eos_token_id", 0, kMaxId);
  return config;
}

std::optional<GenerationConfig> load_generation_config(const std::filesystem::path& directory) {
  const std::filesystem::path path = directory / "generation_config.json";
  std::error_code error;
  if (!std::filesystem::exists(std::filesystem::symlink_status(path, error))) {
    return std::nullopt;
  }
  return parse_generation_config(read_text_file(path, kMaxFileBytes), path.string());
}

}  // namespace engine
