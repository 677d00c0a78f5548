// A decoder run without a session: eager steps through whatever Ops a test hands in.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "engine/model/decoder.h"
#include "kernels/backend.h"

namespace engine::test {

// Logits (T, V) of the T tokens of `ids`, fed to the decoder, whose weights are on `backend`, in
// steps of at most `step` tokens. `ops` issues its work on `backend`.
std::vector<float> forward_logits(Backend& backend, Ops& ops, const Decoder& decoder,
                                  std::span<const std::int32_t> ids, DType dtype,
                                  std::int64_t step);

}  // namespace engine::test
