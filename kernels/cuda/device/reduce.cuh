// Reductions over a warp and over a block, in a fixed order: the same bits on every run.
#pragma once

namespace engine::cuda {

inline constexpr unsigned kFullWarp = 0xffffffffu;

struct SumOp {
  template <typename T>
  __device__ T operator()(T a, T b) const {
    return a + b;
  }
};
struct MaxOp {
  template <typename T>
  __device__ T operator()(T a, T b) const {
    return a > b ? a : b;
  }
};

// Every lane of each group of kLanes adjacent lanes gets the group's result (butterfly).
template <int kLanes = 32, typename Op, typename T>
__device__ T warp_reduce(T value, Op op) {
  static_assert(kLanes >= 1 && kLanes <= 32 && (kLanes & (kLanes - 1)) == 0);
#pragma unroll
  for (int offset = kLanes / 2; offset > 0; offset /= 2) {
    value = op(value, __shfl_xor_sync(kFullWarp, value, offset));
  }
  return value;
}

template <int kLanes = 32, typename T>
__device__ T warp_sum(T value) {
  return warp_reduce<kLanes>(value, SumOp{});
}
template <int kLanes = 32, typename T>
__device__ T warp_max(T value) {
  return warp_reduce<kLanes>(value, MaxOp{});
}

// The sum over the lanes up to the own one.
template <typename T>
__device__ T warp_running_sum(T value) {
  const unsigned lane = threadIdx.x % 32;
#pragma unroll
  for (unsigned offset = 1; offset < 32; offset *= 2) {
    const T below = __shfl_up_sync(kFullWarp, value, offset);
    if (lane >= offset) value += below;
  }
  return value;
}

// Every thread gets the result over the block. `partial` holds 32 values of shared memory, free
// again after the call's last barrier. Every thread of the block must call; whole warps only.
template <typename Op, typename T>
__device__ T block_reduce(T value, T* partial, T identity, Op op) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, warps = blockDim.x / 32;
  value = warp_reduce(value, op);
  if (lane == 0) partial[warp] = value;
  __syncthreads();
  value = warp_reduce(lane < warps ? partial[lane] : identity, op);
  __syncthreads();
  return value;
}

}  // namespace engine::cuda
