#include "engine/model/registry.h"

#include <array>
#include <string>
#include <string_view>

#include "engine/model/llama.h"
#include "engine/model/mixtral.h"
#include "kernels/core/check.h"

namespace engine {
namespace {

template <typename Model>
std::unique_ptr<Decoder> make(const ModelConfig& config) {
  return std::make_unique<Model>(config);
}

struct Entry {
  std::string_view model_type;
  std::unique_ptr<Decoder> (*make)(const ModelConfig& config);
};

// Mistral is LLaMA with a sliding window, which the config carries.
constexpr std::array<Entry, 3> kModels = {
    {{"llama", make<Llama>}, {"mistral", make<Llama>}, {"mixtral", make<Mixtral>}}};

}  // namespace

std::unique_ptr<Decoder> make_decoder(const ModelConfig& config) {
  std::string known;
  for (const Entry& entry : kModels) {
    if (entry.model_type == config.model_type) return entry.make(config);
    known += (known.empty() ? "" : ", ") + std::string(entry.model_type);
  }
  fail(ErrorKind::kUnsupported, "config.json: model_type '", config.model_type,
       "' is not supported; supported are ", known);
}

}  // namespace engine
