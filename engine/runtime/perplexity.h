// How well a model predicts a text.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <span>

#include "engine/runtime/session.h"

namespace engine {

struct Perplexity {
  double mean_nll = 0;    // mean negative log-likelihood of a token, in nats
  double perplexity = 0;  // exp(mean_nll)
  std::int64_t tokens = 0;
};

// Scores every token of `ids` (the first too, given BOS) in windows of the session's capacity with
// a stride of half of it: each window begins with BOS where there is one, and only tokens that no
// earlier window scored count. `progress` gets the number of tokens scored so far. Throws
// Error{kUsage} where there is nothing to score and Error{kNumeric} for logits that are not finite.
Perplexity perplexity(Session& session, std::span<const std::int32_t> ids,
                      std::optional<std::int32_t> bos,
                      const std::function<void(std::int64_t tokens)>& progress);

// −log softmax(logits)[target] in double precision; NaN where any of the logits is not finite.
double negative_log_likelihood(std::span<const float> logits, std::int32_t target);

}  // namespace engine
