// layernorm on Hopper: out = (x − mean(x)) ÷ √(var(x) + eps) · weight + bias over each row, in
// fp32, rounded once.
//
// Layout: x and out (T, D) strided by multiples of 16 bytes, weight and bias (D). Limit: bytes of x
// read and out written. Who computes what: a block a multiprocessor is cut into groups of whole
// warps, as many as a row has vectors of 16 bytes for kVectors a thread; a group takes every
// (groups · blocks)-th row. Its first thread copies the rows ahead into a ring of the group's own
// (bulk copies), so that memory stays busy while others are reduced. A thread has the same columns
// in every row, their weights and biases in registers for good, and reads its part of a row once:
// sum, centred squares and result come from registers. A group's sums meet at its own named barrier
// and are added in a fixed order. Neither x nor out is kept: both leave the L2 cache first.
#include "kernels/cuda/device/bulk.cuh"
#include "kernels/cuda/device/mbarrier_ring.cuh"
#include "kernels/cuda/device/pdl.cuh"
#include "kernels/cuda/device/reduce.cuh"
#include "kernels/cuda/device/stream.cuh"
#include "kernels/cuda/device/vec.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/launchers.h"
#include "kernels/cuda/layernorm_rows.cuh"

namespace engine::cuda {
namespace {

struct Sm90LayerNorm {
  LayerNormRows rows;
  int group_threads, slots;  // of a group
};

// What a group of warps shares: its barrier and its places for partial sums.
struct RowGroup {
  int index, first_warp, warps;
};

// Both unused where the kernel has no body.
[[maybe_unused]] __device__ float group_sum(const RowGroup& group, float value, float* partial) {
  value = warp_sum(value);
  if (group.warps == 1) return value;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  if (lane == 0) partial[threadIdx.x / 32] = value;
  named_barrier_sync(group.index, group.warps * 32);
  return warp_sum(lane < group.warps ? partial[group.first_warp + lane] : 0.0f);
}
[[maybe_unused]] __device__ void group_sync(const RowGroup& group) {
  if (group.warps == 1) return __syncwarp();
  named_barrier_sync(group.index, group.warps * 32);
}

// Of the thread's sums, one a vector: short chains of additions.
template <int kCount>
__device__ float sum_of(const float (&part)[kCount]) {
  float total = 0.0f;
#pragma unroll
  for (int v = 0; v < kCount; ++v) total += part[v];
  return total;
}

template <typename T>
__global__ void __launch_bounds__(kSm90LayerNormThreads, 1)
    sm90_layernorm_kernel(const Sm90LayerNorm a) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  constexpr int kPer = kPerVector<T>, kVectors = kSm90LayerNormVectors;
  const LayerNormRows& p = a.rows;
  extern __shared__ uint4 ring[];  // (groups, slots, D)
  __shared__ Mbarrier barriers[kSm90LayerNormThreads / 32][kSm90LayerNormSlots];
  __shared__ float partial[2][32];
  const int thread = static_cast<int>(threadIdx.x), index = thread / a.group_threads;
  const int member = thread % a.group_threads;
  const RowGroup group{index, index * a.group_threads / 32, a.group_threads / 32};
  const unsigned row_bytes = static_cast<unsigned>(p.width) * sizeof(T);
  const unsigned slot_bytes = row_bytes;
  const std::uint32_t full = shared_address(&barriers[index][0]);
  const std::uint32_t slots = shared_address(ring) + index * a.slots * slot_bytes;
  const int first = index * static_cast<int>(gridDim.x) + static_cast<int>(blockIdx.x);
  const int stride = static_cast<int>(blockDim.x) / a.group_threads * static_cast<int>(gridDim.x);
  const auto copy = [&](int slot, int row) {
    if (row >= p.tokens) return;
    const std::uint32_t barrier = full + static_cast<unsigned>(slot) * 8;
    mbarrier_arrive_expect(barrier, row_bytes);
    bulk_copy(slots + static_cast<unsigned>(slot) * slot_bytes,
              static_cast<const T*>(p.x) + row * p.x_stride, row_bytes, barrier,
              evict_first_policy());
  };
  pdl_launch_dependents();
  if (member == 0) {
#pragma unroll 1
    for (int s = 0; s < a.slots; ++s) mbarrier_init(full + static_cast<unsigned>(s) * 8, 1);
    fence_mbarrier_init();
    pdl_wait();
#pragma unroll 1
    for (int s = 0; s < a.slots; ++s) copy(s, first + s * stride);
  }
  float weight[kVectors][kPer] = {}, bias[kVectors][kPer] = {};
  bool mine[kVectors];
#pragma unroll
  for (int v = 0; v < kVectors; ++v) {
    const int at = (member + v * a.group_threads) * kPer;
    mine[v] = at < p.width;
    if (!mine[v]) continue;
    load_parameters<T>(p.weight, p.f32_weights, at, weight[v]);
    load_parameters<T>(p.bias, p.f32_weights, at, bias[v]);
  }
  pdl_wait();
  group_sync(group);  // the ring's barriers are initialised
  const float share = 1.0f / static_cast<float>(p.width);
  int slot = 0;
  unsigned parity = 0;
  for (int row = first; row < p.tokens; row += stride) {
    const uint4* from = ring + (index * a.slots + slot) * (slot_bytes / 16) + member;
    mbarrier_wait(full + static_cast<unsigned>(slot) * 8, parity);
    uint4 raw[kVectors];
#pragma unroll
    for (int v = 0; v < kVectors; ++v) raw[v] = mine[v] ? from[v * a.group_threads] : uint4{};
    float value[kVectors][kPer], part[kVectors] = {};
#pragma unroll
    for (int v = 0; v < kVectors; ++v) {
      unpack<T>(raw[v], value[v]);
#pragma unroll
      for (int i = 0; i < kPer; ++i) part[v] += value[v][i];
    }
    const float mean = group_sum(group, sum_of(part), partial[0]) * share;
    // Every thread of the group has its part of the row by now: the slot is free.
    __syncwarp();
    if (member == 0) copy(slot, row + a.slots * stride);
    if (++slot == a.slots) slot = 0, parity ^= 1;
#pragma unroll
    for (int v = 0; v < kVectors; ++v) {
      part[v] = 0.0f;
#pragma unroll
      for (int i = 0; i < kPer; ++i) {
        value[v][i] -= mean;
        part[v] = fmaf(value[v][i], value[v][i], part[v]);
      }
      if (!mine[v]) part[v] = 0.0f;
    }
    const float scale = 1.0f / sqrtf(group_sum(group, sum_of(part), partial[1]) * share + p.eps);
    T* to = static_cast<T*>(p.out) + row * p.out_stride + member * kPer;
#pragma unroll
    for (int v = 0; v < kVectors; ++v) {
      if (!mine[v]) continue;
#pragma unroll
      for (int i = 0; i < kPer; ++i) {
        value[v][i] = fmaf(value[v][i] * scale, weight[v][i], bias[v][i]);
      }
      store_streaming(to + v * a.group_threads * kPer, pack<T>(value[v]));
    }
  }
#endif
}

}  // namespace

void sm90_layernorm(CudaContext& context, const LayerNormCall& call, const LayerNormPlan& plan) {
  const Sm90LayerNorm a{
      .rows = layernorm_rows(call), .group_threads = plan.group_threads, .slots = plan.slots};
  dispatch_float(call.x.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    launch(context, sm90_layernorm_kernel<T>, to_unsigned(plan.blocks), to_unsigned(plan.threads),
           plan.shared_bytes, a);
  });
}

}  // namespace engine::cuda
