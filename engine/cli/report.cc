#include "engine/cli/report.h"

#include <array>
#include <charconv>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "kernels/core/check.h"

namespace engine {
namespace {

using OrderedJson = nlohmann::ordered_json;

template <typename... Args>
std::string format(const char* pattern, Args... args) {
  const int size = std::snprintf(nullptr, 0, pattern, args...);
  std::string text(static_cast<std::size_t>(size), '\0');
  std::snprintf(text.data(), text.size() + 1, pattern, args...);
  return text;
}

OrderedJson memory_json(const RunMemory& memory) {
  return {{"weights_bytes", memory.weights},
          {"kv_bytes", memory.kv_cache},
          {"workspace_bytes", memory.workspace},
          {"peak_bytes", memory.peak}};
}

// The double whose shortest decimal is that of the float, so that 0.8f is written 0.8.
double short_float(float value) {
  std::array<char, 32> text;
  const auto end = std::to_chars(text.data(), text.data() + text.size(), value).ptr;
  double result = 0;
  std::from_chars(text.data(), end, result);
  return result;
}

}  // namespace

std::string generation_json(const RunFacts& facts, std::span<const std::int32_t> prompt,
                            const Generation& generation) {
  OrderedJson json;
  json["model"] = facts.model_dir;
  json["prompt_ids"] = std::vector<std::int32_t>(prompt.begin(), prompt.end());
  json["ids"] = generation.ids;
  json["text"] = generation.text;
  json["stop_reason"] = stop_reason_name(generation.stop_reason);
  json["seed"] = facts.seed;
  json["sampling"] = {{"temperature", short_float(facts.sampling.temperature)},
                      {"top_k", facts.sampling.top_k},
                      {"top_p", short_float(facts.sampling.top_p)},
                      {"min_p", short_float(facts.sampling.min_p)},
                      {"repetition_penalty", short_float(facts.sampling.repetition_penalty)}};
  json["timings"] = {{"load_s", facts.load_s},
                     {"prefill_s", generation.prefill_s},
                     {"decode_s", generation.decode_s},
                     {"tokens_per_s", generation.tokens_per_s}};
  json["device"] = facts.device;
  json["dtype"] = facts.dtype;
  json["weights"] = facts.weights;
  json["memory"] = memory_json(facts.memory);
  json["ids_hash"] = format("%016llx", static_cast<unsigned long long>(fnv1a_64(generation.ids)));
  // The directory name may hold any bytes; the text is valid UTF-8 already.
  return json.dump(-1, ' ', false, OrderedJson::error_handler_t::replace) + "\n";
}

std::string perplexity_json(const RunFacts& facts, const Perplexity& result) {
  OrderedJson json;
  json["model"] = facts.model_dir;
  json["tokens"] = result.tokens;
  json["mean_nll"] = result.mean_nll;
  json["perplexity"] = result.perplexity;
  json["device"] = facts.device;
  json["dtype"] = facts.dtype;
  json["weights"] = facts.weights;
  json["memory"] = memory_json(facts.memory);
  return json.dump(-1, ' ', false, OrderedJson::error_handler_t::replace) + "\n";
}

std::string generation_summary(const Generation& generation) {
  std::string line = format("%zu tokens, ", generation.ids.size());
  if (generation.tokens_per_s > 0) {
    line += format("%.1f tok/s, %.1f GB/s of weights and cache, ", generation.tokens_per_s,
                   generation.decode_gb_per_s);
  }
  line += format("%s %.1f ms, stop: ", generation.ids.empty() ? "prefill" : "first token after",
                 1e3 * generation.prefill_s);
  line += stop_reason_name(generation.stop_reason);
  line += format(", ids hash %016llx", static_cast<unsigned long long>(fnv1a_64(generation.ids)));
  return line;
}

std::string ids_json(std::span<const std::int32_t> ids) {
  return OrderedJson(std::vector<std::int32_t>(ids.begin(), ids.end())).dump() + "\n";
}

std::string ids_json(const std::vector<std::vector<std::int32_t>>& texts) {
  return OrderedJson(texts).dump() + "\n";
}

std::vector<std::string> parse_texts(const std::string& json) {
  try {
    return nlohmann::json::parse(json).get<std::vector<std::string>>();
  } catch (const nlohmann::json::exception& error) {
    fail(ErrorKind::kUsage, "--stdin-json: expected a JSON array of texts: ", error.what());
  }
}

std::string device_table(const std::vector<DeviceInfo>& devices, const std::string& cuda_problem) {
  std::string table;
  for (const DeviceInfo& info : devices) {
    table += format("%-8s %s, %s free of %s", to_string(info.device).c_str(), info.name.c_str(),
                    human_bytes(info.memory.free).c_str(), human_bytes(info.memory.total).c_str());
    table += info.problem.empty() ? "\n" : ", not usable: " + info.problem + "\n";
  }
  if (!cuda_problem.empty()) table += "cuda     none: " + cuda_problem + "\n";
  return table;
}

std::string human_bytes(std::size_t bytes) {
  constexpr std::array<const char*, 4> kUnits = {"kB", "MB", "GB", "TB"};
  double value = static_cast<double>(bytes) / 1e3;
  std::size_t unit = 0;
  while (value >= 999.5 && unit + 1 < kUnits.size()) {
    value /= 1e3;
    ++unit;
  }
  return format(value < 9.95 ? "%.1f %s" : "%.0f %s", value, kUnits[unit]);
}

}  // namespace engine
