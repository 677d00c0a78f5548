// Where the sequences of an attention batch lie, on the CPU.
#pragma once

#include "kernels/core/check.h"
#include "kernels/cpu/context.h"
#include "kernels/ops.h"

namespace engine::cpu {

// The rows of one sequence: plane b of the tensors, from a first row on.
struct Sequence {
  std::int64_t plane, first_query, first_key;
  int queries, keys;
};

// Sequence `n` of the batch. Throws Error{kInternal} for offsets that fall, begin below zero, pass
// the tensors' rows or make a sequence longer than the batch says.
inline Sequence sequence_of(const AttentionBatchCall& call, std::int64_t n) {
  if (!call.ragged()) {
    return {n, 0, 0, static_cast<int>(call.q.size(1)), static_cast<int>(call.k.size(1))};
  }
  const auto* q = call.query_offsets.as<std::int32_t>() + n;
  const auto* k = call.key_offsets.as<std::int32_t>() + n;
  const auto expect = [&](const char* name, const std::int32_t* at, std::int64_t rows,
                          std::int64_t most) {
    ENGINE_REQUIRE(at[0] >= 0 && at[0] <= at[1] && at[1] <= rows && at[1] - at[0] <= most,
                   "attention: sequence ", n, " has ", name, " [", at[0], ", ", at[1], ") of ",
                   rows, ", at most ", most);
  };
  expect("queries", q, call.q.size(1), call.max_queries);
  expect("keys", k, call.k.size(1), call.max_keys);
  return {0, q[0], k[0], q[1] - q[0], k[1] - k[0]};
}

// Address of row `row`, head `head` of plane `plane` of (B, rows, heads, Dh).
inline std::byte* head_row(const Tensor& tensor, std::int64_t plane, std::int64_t row,
                           std::int64_t head) {
  return tensor.as<std::byte>() +
         (plane * tensor.stride(0) + row * tensor.stride(1) + head * tensor.stride(2)) *
             static_cast<std::int64_t>(dtype_size(tensor.dtype));
}

inline float* lse_of(const AttentionBatchCall& call, const Sequence& s, std::int64_t head,
                     std::int64_t query) {
  return call.lse.as<float>() + s.plane * call.lse.stride(0) + head * call.lse.stride(1) +
         s.first_query + query;
}

inline int position_of(const Tensor& position) {
  return position ? *position.as<std::int32_t>() : 0;
}

}  // namespace engine::cpu
