// One sequence in flight: the KV cache, the state of the step on the device, and the recorded
// steps.
//
// prefill() runs the prompt eagerly, in chunks; decode() replays a recorded step of one token. The
// ids, the position and the sampling history stay on the device, so that decode() issues work
// without waiting for the id before it; next() collects the ids in order. Used by one thread.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "engine/model/decoder.h"
#include "engine/runtime/kv_cache.h"
#include "kernels/backend.h"
#include "kernels/core/buffer.h"
#include "kernels/core/sampling.h"

namespace engine {

struct SessionOptions {
  DType dtype = DType::kF32;          // compute type
  std::int64_t max_context = 0;       // capacity of the cache in positions
  std::int64_t prefill_chunk = 2048;  // most tokens of one step, which bounds the workspace
  bool replay = true;  // decode by recorded steps; false: eagerly, with the same bits
};

// What a session allocates, in bytes.
struct SessionMemory {
  std::size_t kv_cache = 0;
  std::size_t workspace = 0;
  std::size_t state = 0;  // step input, rotary table, hidden state and logits
  std::size_t total() const { return kv_cache + workspace + state; }
};

class Session {
 public:
  // Gets rows of float32 logits, (rows, V), of the tokens from prompt position `first` on.
  using LogitsSink = std::function<void(std::int64_t first, std::span<const float> rows)>;

  // Throws Error{kMemory}. The backend and the model must outlive the session.
  Session(Backend& backend, const Decoder& model, const SessionOptions& options);

  // What a session with these options would allocate; the model is bound, its weights need not be
  // loaded.
  static SessionMemory memory(Backend& backend, const Decoder& model,
                              const SessionOptions& options);

  std::int64_t capacity() const { return cache_.capacity(); }
  // Tokens whose keys and values are in the cache once the issued work is done.
  std::int64_t position() const { return position_; }
  std::int64_t vocab() const { return model_.config().vocab; }
  const Decoder& model() const { return model_; }
  const SessionMemory& memory() const { return memory_; }

  // Forgets the sequence: position 0 and no sampling history.
  void reset();
  // Used by every token sampled from now on.
  void set_sampling(const SamplingParams& params);

  // Appends `ids` to the sequence. With a sink, hands it the logits of every one of them. With
  // `sample`, draws the token that follows the last, to be collected with next(). Throws
  // Error{kUsage} where the cache has no room, and for ids outside the vocabulary.
  void prefill(std::span<const std::int32_t> ids, bool sample, const LogitsSink& sink = nullptr);

  // Appends the token drawn last and draws the one after it; it doesn't wait. Throws
  // Error{kInternal} where the cache is full.
  void decode();

  // Waits for the oldest token drawn and not yet collected. Throws Error{kNumeric} where its logits
  // were not finite.
  std::int32_t next();
  // Tokens drawn and not yet collected.
  int pending() const { return pending_; }

 private:
  // The device tensors of a session, carved from one block.
  struct State {
    Tensor ids;         // (chunk) i32
    Tensor position;    // (1) i32
    Tensor params;      // one SamplingParams
    Tensor seen;        // (V) u8
    Tensor sampled;     // SampledTokens of the last few positions
    Tensor rope_table;  // (C, Dh) f32
    Tensor hidden;      // (chunk, D)
    Tensor logits;      // (rows, V) f32
  };
  static State carve(const ModelConfig& config, const SessionOptions& options, Workspace* arena);
  static SessionOptions normalised(const Decoder& model, SessionOptions options);
  static void issue_step(Ops& ops, const Decoder& model, const State& state,
                         std::span<const LayerCache> caches, std::int64_t tokens,
                         std::int64_t bound, bool sample, Workspace scratch);

  std::int64_t bound(std::int64_t length) const;
  void forward_chunk(std::span<const std::int32_t> ids, bool sample, const LogitsSink& sink);
  void emit_logits(std::int64_t tokens, const LogitsSink& sink);
  void queue_readback();

  Backend& backend_;
  const Decoder& model_;
  SessionOptions options_;
  SessionMemory memory_;
  KvCache cache_;
  Buffer state_memory_;
  Buffer scratch_memory_;
  State state_;
  Workspace workspace_;
  std::map<std::int64_t, std::unique_ptr<Plan>> plans_;  // by bound, one token a step
  std::unique_ptr<Readback> readback_;
  std::int64_t position_ = 0;
  std::int64_t drawn_ = 0;  // tokens sampled since the reset, for messages
  int pending_ = 0;
  std::vector<std::uint8_t> seen_;  // by id: in the prompt or collected
  std::vector<float> host_logits_;
};

}  // namespace engine
