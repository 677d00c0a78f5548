#include "tests/model/forward.h"

#include <algorithm>

#include "engine/model/rope.h"
#include "engine/runtime/kv_cache.h"

namespace engine::test {

std::vector<float> forward_logits(Backend& backend, Ops& ops, const Decoder& decoder,
                                  std::span<const std::int32_t> ids, DType dtype,
                                  std::int64_t step) {
  const ModelConfig& config = decoder.config();
  const auto count = static_cast<std::int64_t>(ids.size());
  const std::int64_t most = std::min(step, count);
  const KvCache cache(backend, config, dtype, count);
  struct State {
    Tensor ids, position, rope_table, hidden, logits;
  };
  const auto carve = [&](Workspace arena) {
    return State{.ids = arena.take(DType::kI32, {most}),
                 .position = arena.take(DType::kI32, {1}),
                 .rope_table = arena.take(DType::kF32, {count, config.head_dim}),
                 .hidden = arena.take(dtype, {most, config.hidden}),
                 .logits = arena.take(DType::kF32, {most, config.vocab})};
  };
  std::size_t state_bytes = 0;
  carve(Workspace::dry_run(backend.device(), &state_bytes));
  const Buffer state_memory = backend.allocate(state_bytes);
  const State state = carve(Workspace(state_memory.data(), state_bytes, backend.device()));
  const auto issue = [&](Ops& to, Workspace scratch, std::int64_t tokens) {
    const Tensor hidden = state.hidden.slice(0, 0, tokens);
    decoder.forward(to,
                    {.ids = state.ids.slice(0, 0, tokens),
                     .position = state.position,
                     .rope_table = state.rope_table,
                     .bound = count},
                    cache.layers(), hidden, scratch);
    decoder.logits(to, hidden, state.logits.slice(0, 0, tokens), scratch);
  };
  std::size_t scratch_bytes = 0;
  for (std::int64_t tokens = 1; tokens <= most; ++tokens) {
    scratch_bytes = std::max(scratch_bytes, backend.workspace_bytes([&](Ops& dry, Workspace space) {
      issue(dry, space, tokens);
    }));
  }
  const Buffer scratch_memory = backend.allocate(scratch_bytes);
  const Workspace scratch(scratch_memory.data(), scratch_bytes, backend.device());

  backend.write(state.rope_table, rope_table(config.rope, config.head_dim, count).data());
  std::vector<float> logits(static_cast<std::size_t>(count * config.vocab));
  for (std::int64_t begin = 0; begin < count; begin += most) {
    const std::int64_t tokens = std::min(most, count - begin);
    const auto position = static_cast<std::int32_t>(begin);
    backend.write(state.ids.slice(0, 0, tokens), ids.data() + begin);
    backend.write(state.position, &position);
    issue(ops, scratch, tokens);
    backend.read(logits.data() + begin * config.vocab, state.logits.slice(0, 0, tokens));
  }
  return logits;
}

}  // namespace engine::test
