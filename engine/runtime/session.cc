#include "engine/runtime/session.h"

#include <algorithm>
#include <bit>
#include <utility>

#include "engine/model/rope.h"
#include "kernels/core/check.h"

namespace engine {
namespace {

constexpr std::int64_t kLeastBound = 256;          // smallest bucket of cache lengths
constexpr std::int64_t kLogitsBytes = 16ll << 20;  // most logits kept on the device at a time
constexpr std::int64_t kSmallSteps = 64;           // step sizes whose workspace is tried one by one
constexpr int kReadbackDepth = 4;

}  // namespace

SessionOptions Session::normalised(const Decoder& model, SessionOptions options) {
  ENGINE_REQUIRE(options.max_context > 0, "a session of ", options.max_context, " positions");
  ENGINE_REQUIRE(options.prefill_chunk > 0, "a prefill chunk of ", options.prefill_chunk);
  ENGINE_CHECK(options.max_context <= model.config().max_positions, ErrorKind::kUsage,
               "a context of ", options.max_context, " positions, the model has ",
               model.config().max_positions);
  options.prefill_chunk = std::min(options.prefill_chunk, options.max_context);
  return options;
}

Session::State Session::carve(const ModelConfig& config, const SessionOptions& options,
                              Workspace* arena) {
  const std::int64_t chunk = options.prefill_chunk;
  const std::int64_t row_bytes = config.vocab * static_cast<std::int64_t>(sizeof(float));
  const std::int64_t rows = std::clamp(kLogitsBytes / row_bytes, std::int64_t{1}, chunk);
  State state;
  state.ids = arena->take(DType::kI32, {chunk});
  state.position = arena->take(DType::kI32, {1});
  state.params = arena->take(DType::kU8, {static_cast<std::int64_t>(sizeof(SamplingParams))});
  state.seen = arena->take(DType::kU8, {config.vocab});
  state.sampled = arena->take(DType::kI32, {2 * kReadbackDepth});
  state.rope_table = arena->take(DType::kF32, {options.max_context, config.head_dim});
  state.hidden = arena->take(options.dtype, {chunk, config.hidden});
  state.logits = arena->take(DType::kF32, {rows, config.vocab});
  return state;
}

// The step itself: what is recorded, run eagerly and dry-run to size the workspace.
void Session::issue_step(Ops& ops, const Decoder& model, const State& state,
                         std::span<const LayerCache> caches, std::int64_t tokens,
                         std::int64_t bound, bool sample, Workspace scratch) {
  const Tensor hidden = state.hidden.slice(0, 0, tokens);
  const StepInput input = {.ids = state.ids.slice(0, 0, tokens),
                           .position = state.position,
                           .rope_table = state.rope_table,
                           .bound = bound};
  model.forward(ops, input, caches, hidden, scratch);
  if (!sample) return;
  const Tensor logits = state.logits.slice(0, 0, 1);
  model.logits(ops, hidden.slice(0, tokens - 1, 1), logits, scratch);
  ops.sample({.logits = logits.reshape({logits.size(1)}),
              .params = state.params,
              .seen = state.seen,
              .position = state.position,
              .next_ids = state.ids,
              .sampled = state.sampled,
              .advance = static_cast<std::int32_t>(tokens)});
}

SessionMemory Session::memory(Backend& backend, const Decoder& model,
                              const SessionOptions& wanted) {
  const SessionOptions options = normalised(model, wanted);
  const ModelConfig& config = model.config();
  SessionMemory memory;
  memory.kv_cache = KvCache::bytes(config, options.dtype, options.max_context);
  Workspace arena = Workspace::dry_run(backend.device(), &memory.state);
  const State state = carve(config, options, &arena);

  // Caches without memory, for the shapes.
  std::size_t unused = 0;
  Workspace cache_arena = Workspace::dry_run(backend.device(), &unused);
  const Shape shape = {config.kv_heads, options.max_context, config.head_dim};
  const LayerCache cache = {.k = cache_arena.take(options.dtype, shape),
                            .v = cache_arena.take(options.dtype, shape)};
  const std::vector<LayerCache> caches(static_cast<std::size_t>(config.layers), cache);
  const auto try_step = [&](std::int64_t tokens) {
    const std::size_t bytes = backend.workspace_bytes([&](Ops& ops, Workspace scratch) {
      issue_step(ops, model, state, caches, tokens, options.max_context, true, scratch);
      model.logits(ops, state.hidden.slice(0, 0, state.logits.size(0)), state.logits, scratch);
    });
    memory.workspace = std::max(memory.workspace, bytes);
  };
  for (std::int64_t tokens = 1; tokens <= std::min(kSmallSteps, options.prefill_chunk); ++tokens) {
    try_step(tokens);
  }
  try_step(options.prefill_chunk);
  return memory;
}

Session::Session(Backend& backend, const Decoder& model, const SessionOptions& options)
    : backend_(backend),
      model_(model),
      options_(normalised(model, options)),
      memory_(memory(backend, model, options_)),
      cache_(backend, model.config(), options_.dtype, options_.max_context),
      state_memory_(backend.allocate(memory_.state)),
      scratch_memory_(backend.allocate(memory_.workspace)),
      workspace_(scratch_memory_.data(), memory_.workspace, backend.device()),
      readback_(backend.readback(sizeof(SampledToken), kReadbackDepth)),
      seen_(static_cast<std::size_t>(model.config().vocab)) {
  const ModelConfig& config = model.config();
  Workspace arena(state_memory_.data(), memory_.state, backend.device());
  state_ = carve(config, options_, &arena);
  const std::vector<float> table = rope_table(config.rope, static_cast<int>(config.head_dim),
                                              static_cast<int>(options_.max_context));
  backend_.write(state_.rope_table, table.data());
  set_sampling({});
}

void Session::reset() {
  while (pending_ > 0) {
    SampledToken discarded;
    readback_->pop(&discarded);
    --pending_;
  }
  position_ = 0;
  drawn_ = 0;
  std::fill(seen_.begin(), seen_.end(), std::uint8_t{0});
}

void Session::set_sampling(const SamplingParams& params) { backend_.write(state_.params, &params); }

// The bucket of cache lengths that `length` falls into: steps with one bucket share a plan.
std::int64_t Session::bound(std::int64_t length) const {
  const auto bucket = std::bit_ceil(static_cast<std::uint64_t>(std::max(length, kLeastBound)));
  return std::min(static_cast<std::int64_t>(bucket), capacity());
}

void Session::prefill(std::span<const std::int32_t> ids, bool sample, const LogitsSink& sink) {
  const auto count = static_cast<std::int64_t>(ids.size());
  ENGINE_REQUIRE(pending_ == 0, "prefill with ", pending_, " tokens not collected");
  ENGINE_CHECK(count > 0, ErrorKind::kUsage, "the prompt has no token");
  ENGINE_CHECK(position_ + count <= capacity(), ErrorKind::kUsage, "the prompt has ", count,
               " tokens, the context has room for ", capacity() - position_);
  for (const std::int32_t id : ids) {
    ENGINE_CHECK(id >= 0 && id < vocab(), ErrorKind::kUsage, "token id ", id,
                 " is outside the vocabulary of ", vocab());
    seen_[static_cast<std::size_t>(id)] = 1;
  }
  backend_.write(state_.seen, seen_.data());
  for (std::int64_t begin = 0; begin < count; begin += options_.prefill_chunk) {
    const std::int64_t size = std::min(options_.prefill_chunk, count - begin);
    const bool last = begin + size == count;
    forward_chunk(ids.subspan(static_cast<std::size_t>(begin), static_cast<std::size_t>(size)),
                  sample && last, sink);
  }
}

void Session::forward_chunk(std::span<const std::int32_t> ids, bool sample,
                            const LogitsSink& sink) {
  const auto tokens = static_cast<std::int64_t>(ids.size());
  const auto position = static_cast<std::int32_t>(position_);
  backend_.write(state_.ids.slice(0, 0, tokens), ids.data());
  backend_.write(state_.position, &position);
  issue_step(backend_.ops(), model_, state_, cache_.layers(), tokens, bound(position_ + tokens),
             sample, workspace_);
  position_ += tokens;
  if (sample) queue_readback();
  if (sink) emit_logits(tokens, sink);
}

void Session::emit_logits(std::int64_t tokens, const LogitsSink& sink) {
  const std::int64_t most = state_.logits.size(0);
  for (std::int64_t row = 0; row < tokens; row += most) {
    const std::int64_t rows = std::min(most, tokens - row);
    const Tensor logits = state_.logits.slice(0, 0, rows);
    model_.logits(backend_.ops(), state_.hidden.slice(0, row, rows), logits, workspace_);
    host_logits_.resize(static_cast<std::size_t>(rows * vocab()));
    backend_.read(host_logits_.data(), logits);
    sink(position_ - tokens + row, host_logits_);
  }
}

void Session::decode() {
  ENGINE_REQUIRE(position_ > 0 && drawn_ > 0, "decode before a token was drawn");
  ENGINE_REQUIRE(position_ < capacity(), "decode at position ", position_, " of ", capacity());
  ENGINE_REQUIRE(pending_ < kReadbackDepth, "decode with ", pending_, " tokens not collected");
  const std::int64_t step_bound = bound(position_ + 1);
  const Step step = [&](Ops& ops) {
    issue_step(ops, model_, state_, cache_.layers(), 1, step_bound, true, workspace_);
  };
  if (options_.replay) {
    std::unique_ptr<Plan>& plan = plans_[step_bound];
    if (plan == nullptr) plan = backend_.record(step);
    plan->run();
  } else {
    step(backend_.ops());
  }
  ++position_;
  queue_readback();
}

void Session::queue_readback() {
  readback_->push(state_.sampled.slice(0, position_ % kReadbackDepth * 2, 2));
  ++pending_;
  ++drawn_;
}

std::int32_t Session::next() {
  ENGINE_REQUIRE(pending_ > 0, "next without a token drawn");
  SampledToken token;
  readback_->pop(&token);
  --pending_;
  ENGINE_CHECK(token.not_finite == 0, ErrorKind::kNumeric, "the logits of step ", drawn_ - pending_,
               " (position ", position_ - pending_,
               ") are NaN or infinite: the weights are damaged or overflow this --dtype");
  seen_[static_cast<std::size_t>(token.id)] = 1;
  return token.id;
}

}  // namespace engine
