// LLaMA and the models of its shape (Mistral): a decoder with a gated SiLU feed-forward.
#pragma once

#include <vector>

#include "engine/model/decoder.h"

namespace engine {

class Llama final : public Decoder {
 public:
  explicit Llama(ModelConfig config);

 private:
  struct FeedForwardWeights {
    Tensor norm;     // (D)
    Weight gate_up;  // (2 F, D)
    Weight down;     // (D, F)
  };

  void bind_feed_forward(WeightBinder& binder, std::int64_t layer) override;
  void feed_forward(Ops& ops, std::int64_t layer, const Tensor& x,
                    Workspace scratch) const override;
  std::size_t feed_forward_bytes() const override;

  std::vector<FeedForwardWeights> feed_forward_;
};

}  // namespace engine
