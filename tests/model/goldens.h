// The parity goldens in tests/model/data: tiny checkpoints, token ids, and the float32 logits that
// transformers computes from the stored weights (tools/make_goldens.py).
#pragma once

#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <vector>

namespace engine::test {

struct Golden {
  std::string name;
  std::filesystem::path directory;
  std::int64_t vocab = 0;
  std::vector<std::int32_t> ids;     // the prompt
  std::vector<std::int64_t> rows;    // positions whose logits are stored
  std::vector<float> logits;         // (rows, V)
  std::vector<std::int32_t> greedy;  // what greedy decoding goes on with; may be empty
  // Of a mixture of experts, for each of `rows`: how far the logit of the last expert chosen lies
  // above that of the next one, the smallest of all layers. Empty for other models.
  std::vector<double> router_margins;

  bool is_mixture() const { return !router_margins.empty(); }
  // The rows of `logits` (T, V), of every token of the prompt, that are stored here.
  std::vector<float> stored_rows(std::span<const float> all) const;
};

// All cases of the manifest. Throws where a file is missing or its shape is off.
std::vector<Golden> load_goldens();

// ‖a − b‖² ÷ ‖b‖² in double precision; NaN where a holds one.
double nmse(std::span<const float> a, std::span<const float> b);

}  // namespace engine::test
