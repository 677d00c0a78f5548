// config.json: the shape of a model and which of its features are in use.
//
// Absent fields get the value that transformers gives them for the model type. A feature that would
// change the result and that the engine does not have is refused by name instead of being skipped.
//
// Errors: Error{kModel} for a missing, malformed or contradictory field, with file, field,
// expected and found; Error{kUnsupported} for a valid feature that the engine does not have.
// Plain values: no ownership, no thread rule.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "engine/model/rope.h"
#include "kernels/core/dtype.h"

namespace engine {

// The ranges are such that no product that the engine forms of these numbers (bytes of all
// weights, of a KV cache, of a table) overflows int64.
struct ModelConfig {
  std::string model_type;         // "llama", "mistral" or "mixtral"
  std::int64_t hidden = 0;        // D
  std::int64_t intermediate = 0;  // F
  std::int64_t layers = 0;
  std::int64_t heads = 0;          // H
  std::int64_t kv_heads = 0;       // G, divides H
  std::int64_t head_dim = 0;       // Dh, even; H x Dh may differ from D
  std::int64_t vocab = 0;          // V
  std::int64_t max_positions = 0;  // the longest context the model was made for
  float rms_eps = 0.0f;
  RopeConfig rope;
  std::optional<std::int64_t> sliding_window;  // W: a query sees keys with 0 <= q - k < W
  bool tie_word_embeddings = false;
  std::optional<std::int64_t> bos_id;
  std::vector<std::int64_t> eos_ids;
  std::optional<DType> stored_dtype;   // what the file says; the tensors' own types decide
  std::int64_t experts = 0;            // E; 0 for a dense model
  std::int64_t experts_per_token = 0;  // top-k of the router
};

// Parses the text of a config.json; `file` is its name in messages.
ModelConfig parse_config(std::string_view text, const std::string& file);

// Reads config.json of a checkpoint directory.
ModelConfig load_config(const std::filesystem::path& directory);

}  // namespace engine
