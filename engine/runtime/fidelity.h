// How faithful one form of a model is to another: int8 weights against unquantised ones, say.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <span>

#include "engine/runtime/session.h"

namespace engine {

struct Fidelity {
  // A position counts as sure where the reference's first logit is this much above its second.
  static constexpr double kMargin = 0.25;

  std::int64_t positions = 0;       // compared
  std::int64_t sure_positions = 0;  // of them, those where the reference is sure
  std::int64_t agreed = 0;          // positions with the same most likely token
  std::int64_t sure_agreed = 0;     // of them, those where the reference is sure
  double mean_kl = 0;               // mean Σ p ln(p ÷ q) in nats, p the reference's distribution
  double largest_kl = 0;            // of one position

  // Shares of the positions, in [0, 1]; 1 where there is no position to disagree at.
  double top1_agreement() const;
  double sure_agreement() const;

  // Adds one position: the logits of both, float32, of one size. Computed in double precision; the
  // most likely token is the lowest id of the largest logits. Throws Error{kNumeric} for logits
  // that are not finite.
  void add(std::span<const float> reference, std::span<const float> candidate);
};

// Compares what both sessions predict for every token of `ids` (the first too, given BOS), in the
// windows of perplexity(): as long as the smaller capacity with a stride of half of it, each
// beginning with BOS where there is one, and only tokens that no earlier window predicted count.
// The sessions may share a backend, and are reset. `progress` gets the number of tokens done so
// far. Throws Error{kUsage} where there is nothing to predict and for models of different
// vocabularies.
Fidelity fidelity(Session& reference, Session& candidate, std::span<const std::int32_t> ids,
                  std::optional<std::int32_t> bos,
                  const std::function<void(std::int64_t tokens)>& progress);

}  // namespace engine
