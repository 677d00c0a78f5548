// Mixtral: a decoder whose feed-forward is a mixture of experts. A router chooses a few of them for
// each token; the rest of the block is LLaMA's.
#pragma once

#include <vector>

#include "engine/model/decoder.h"

namespace engine {

class Mixtral final : public Decoder {
 public:
  explicit Mixtral(ModelConfig config);

 private:
  struct FeedForwardWeights {
    Tensor norm;     // (D)
    Weight router;   // (E, D), never quantised
    Weight gate_up;  // (E · 2 F, D): of each expert gate rows, then up rows
    Weight down;     // (E · D, F)
  };

  void bind_feed_forward(WeightBinder& binder, std::int64_t layer) override;
  void feed_forward(Ops& ops, std::int64_t layer, const Tensor& x,
                    Workspace scratch) const override;
  // The router, and of the experts the share that a token uses.
  std::size_t feed_forward_bytes() const override;

  std::vector<FeedForwardWeights> feed_forward_;
};

}  // namespace engine
