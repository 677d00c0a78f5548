// Sorts the rows of a mixture's product by expert and cuts each expert's rows into tiles, on the
// device, so that no host has to know the choice.
//
// Layout: experts (T, S) strided; order (T · S); groups (tiles). One block; a warp counts and then
// places the rows of every 32nd expert, 32 rows at a time by ballot: the sort is stable and has no
// atomics, so the same bits come out on every run. Shared memory: (E + 1) first places and (E + 1)
// first tiles. Limit: latency, a few microseconds up to some thousand rows.
#include "kernels/cuda/device/pdl.cuh"
#include "kernels/cuda/device/reduce.cuh"
#include "kernels/cuda/row_product.cuh"

namespace engine::cuda {
namespace {

constexpr int kThreads = 1024, kWarps = kThreads / 32;

__global__ void __launch_bounds__(kThreads)
    moe_sort_kernel(const RowProduct p, std::int32_t* order,  // (T · S)
                    RowGroup* groups) {                       // (tiles)
  extern __shared__ std::int32_t shared_starts[];
  std::int32_t* starts = shared_starts;             // (E + 1): counts, then where rows begin
  std::int32_t* first_tile = starts + p.count + 1;  // (E + 1)
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
  pdl_launch_dependents();
  pdl_wait();
  const auto chosen = [&](std::int32_t base, std::int32_t expert) {
    const std::int32_t row = base + lane;
    return __ballot_sync(kFullWarp, row < p.rows && expert_of(p, row) == expert);
  };
  for (std::int32_t e = warp; e < p.count; e += kWarps) {
    std::int32_t found = 0;
#pragma unroll 4
    for (std::int32_t base = 0; base < p.rows; base += 32) found += __popc(chosen(base, e));
    if (lane == 0) starts[e] = found;
  }
  __syncthreads();  // all experts are counted
  if (threadIdx.x == 0) {
    std::int32_t begin = 0, tile = 0;
    for (std::int32_t e = 0; e < p.count; ++e) {
      const std::int32_t found = starts[e];
      starts[e] = begin;
      first_tile[e] = tile;
      begin += found;
      tile += (found + p.row_tile - 1) / p.row_tile;
    }
    starts[p.count] = begin;
    first_tile[p.count] = tile;
  }
  __syncthreads();  // all beginnings are known
  for (std::int32_t e = warp; e < p.count; e += kWarps) {
    std::int32_t place = starts[e];
    const std::int32_t end = starts[e + 1];
#pragma unroll 4
    for (std::int32_t base = 0; base < p.rows; base += 32) {
      const unsigned mask = chosen(base, e);
      if ((mask >> lane & 1u) != 0) order[place + __popc(mask & ((1u << lane) - 1u))] = base + lane;
      place += __popc(mask);
    }
    const std::int32_t tiles = first_tile[e + 1] - first_tile[e];
    for (std::int32_t i = lane; i < tiles; i += 32) {
      const std::int32_t begin = starts[e] + i * p.row_tile;
      groups[first_tile[e] + i] = {e, begin, min(p.row_tile, end - begin)};
    }
  }
  for (std::int32_t i = first_tile[p.count] + static_cast<std::int32_t>(threadIdx.x); i < p.tiles;
       i += kThreads) {
    groups[i] = {0, 0, 0};
  }
}

}  // namespace

void moe_sort(CudaContext& context, const RowProduct& product, std::int32_t* order,
              RowGroup* groups) {
  const std::size_t shared = 2 * (static_cast<std::size_t>(product.count) + 1) * sizeof(int);
  ENGINE_REQUIRE(shared <= context.arch().shared_bytes, "moe_linear: ", product.count,
                 " experts do not fit the shared memory of a block");
  launch(context, moe_sort_kernel, 1, kThreads, shared, product, order, groups);
}

}  // namespace engine::cuda
