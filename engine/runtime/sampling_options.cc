#include "engine/runtime/sampling_options.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include "kernels/core/check.h"

namespace engine {
namespace {

// Below this a temperature is as good as greedy, and dividing by it could overflow.
constexpr float kLeastTemperature = 1e-5f;
// A penalty outside these could take a score out of fp32's range.
constexpr double kLeastPenalty = 1e-3, kMostPenalty = 1e3;
constexpr const char* kFile = "generation_config.json";

struct Range {
  double least, most;
  bool least_included;
  const char* text;
};

// Picks the value of one parameter, checks it and notes where it came from.
class Picker {
 public:
  double pick(const char* flag, const char* field, const std::optional<double>& from_flag,
              const std::optional<double>& from_file, double fallback, const Range& range) {
    const char* source = from_flag ? "flag" : from_file ? kFile : "default";
    const double value = from_flag ? *from_flag : from_file.value_or(fallback);
    const bool enough = range.least_included ? value >= range.least : value > range.least;
    const bool fits = std::isfinite(value) && enough && value <= range.most;
    if (!fits && from_flag) {
      fail(ErrorKind::kUsage, "--", flag, ": expected ", range.text, ", found ", value);
    }
    ENGINE_CHECK(fits, ErrorKind::kModel, kFile, ": ", field, ": expected ", range.text, ", found ",
                 value);
    description_ += concat(description_.empty() ? "" : ", ", flag, " ", value, " (", source, ")");
    return value;
  }
  std::string take() { return std::move(description_); }

 private:
  std::string description_;
};

}  // namespace

SamplingChoice choose_sampling(const SamplingFlags& flags, const GenerationConfig& file) {
  constexpr double kMostReal = std::numeric_limits<float>::max();
  constexpr double kMostK = std::numeric_limits<std::int32_t>::max();
  const auto as_double = [](const auto& field) {
    return field ? std::optional<double>(static_cast<double>(*field)) : std::nullopt;
  };
  std::optional<double> file_temperature = as_double(file.temperature);
  if (file.do_sample == false) file_temperature = 0.0;

  Picker picker;
  SamplingChoice choice;
  SamplingParams& params = choice.params;
  params.temperature =
      static_cast<float>(picker.pick("temperature", "temperature", flags.temperature,
                                     file_temperature, 0.8, {0, kMostReal, true, "0 or more"}));
  params.top_k = static_cast<std::int32_t>(picker.pick("top-k", "top_k", as_double(flags.top_k),
                                                       as_double(file.top_k), 200,
                                                       {0, kMostK, true, "0 (all) to 2147483647"}));
  params.top_p =
      static_cast<float>(picker.pick("top-p", "top_p", flags.top_p, as_double(file.top_p), 1,
                                     {0, 1, false, "more than 0, at most 1"}));
  params.min_p = static_cast<float>(
      picker.pick("min-p", "min_p", flags.min_p, as_double(file.min_p), 0, {0, 1, true, "0 to 1"}));
  params.repetition_penalty = static_cast<float>(picker.pick(
      "repetition-penalty", "repetition_penalty", flags.repetition_penalty,
      as_double(file.repetition_penalty), 1, {kLeastPenalty, kMostPenalty, true, "0.001 to 1000"}));
  // What is more than 0 stays so in fp32.
  params.top_p = std::max(params.top_p, std::numeric_limits<float>::min());
  if (params.temperature > 0) params.temperature = std::max(params.temperature, kLeastTemperature);
  choice.description = picker.take();
  return choice;
}

}  // namespace engine
