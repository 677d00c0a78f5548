// The decoder-only transformer: one graph for every backend.
//
// A Decoder holds the weights of a model (non-owning; the run-time owns the memory) and asks an Ops
// for the work of a step. It knows neither device nor stream. A model differs from another in its
// feed-forward and in the names of its tensors: that is what a subclass gives.
//
// Const methods hold no state and may be called from any thread; the order of the calls on one Ops
// is the order of the work.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "engine/model/config.h"
#include "kernels/core/tensor.h"
#include "kernels/core/weight.h"
#include "kernels/core/workspace.h"
#include "kernels/ops.h"

namespace engine {

class WeightBinder;

// One layer's keys and values: (G, C, Dh) each.
struct LayerCache {
  Tensor k, v;
};

// What a step reads from the device, and the one number the host knows of it.
struct StepInput {
  Tensor ids;              // (T) i32
  Tensor position;         // (1) i32: tokens already in the cache
  Tensor rope_table;       // (P, Dh) f32
  std::int64_t bound = 0;  // position + T is at most this; the same bound gives the same bits
};

class Decoder {
 public:
  virtual ~Decoder() = default;

  const ModelConfig& config() const { return config_; }

  // Declares every weight with its tensors and exact shape; the binder fills them in later.
  void bind(WeightBinder& binder);

  // Embeds the ids and runs every layer: out = hidden state before the final norm, (T, D). Appends
  // T positions to the caches.
  void forward(Ops& ops, const StepInput& step, std::span<const LayerCache> caches,
               const Tensor& hidden, Workspace scratch) const;

  // logits (R, V) f32 of R rows of the hidden state (R, D).
  void logits(Ops& ops, const Tensor& hidden, const Tensor& out, Workspace scratch) const;

  // Bytes of weights that a step of one token reads: all but the embedding table, of which it reads
  // one row; a table that is also the output head counts.
  virtual std::size_t bytes_per_token() const;

 protected:
  explicit Decoder(ModelConfig config);

  virtual void bind_feed_forward(WeightBinder& binder, std::int64_t layer) = 0;
  // x (T, D) += the feed-forward of layer `layer`, its norm included.
  virtual void feed_forward(Ops& ops, std::int64_t layer, const Tensor& x,
                            Workspace scratch) const = 0;
  // Bytes that the feed-forward of every layer reads for one token.
  virtual std::size_t feed_forward_bytes() const = 0;

 private:
  struct AttentionWeights {
    Tensor norm;    // (D)
    Weight qkv;     // ((H + 2 G) · Dh, D)
    Weight output;  // (D, H · Dh)
  };

  void decoder_layer(Ops& ops, std::int64_t layer, const StepInput& step, const LayerCache& cache,
                     const Tensor& x, Workspace scratch) const;

  ModelConfig config_;
  Weight embedding_;   // (V, D)
  Weight head_;        // (V, D); where tied, the embedding itself or a copy of it in another format
  Tensor final_norm_;  // (D)
  std::vector<AttentionWeights> attention_;
};

}  // namespace engine
