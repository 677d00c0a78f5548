// vector_gemv.cu's product on Hopper, for rows of at most 16 · 1024 elements:
//
//   out[s, n] = (Σ_k W[e(s) · N + n, k] · x[k]) × scale + bias[n]
//
// Layout: W (E · N, K) row-major, x (K). Limit: the bytes of the chosen rows of W, read once. Who
// computes what: a block a multiprocessor takes `row_groups` rows, a stage, in turn with the other
// blocks, so that what all read at a time lies together. One warp copies the rows into a ring in
// shared memory, as far ahead as the ring goes and from the kernel's first instruction on: weights
// depend on nothing. The sixteen others are
// `row_groups` × `slices`: a warp has 1024 columns of every row of its group, and x of those
// columns in registers for good. int8 weights meet x as three signed digits (device/digits.cuh) of
// the slice: integer products without a conversion of weights, exact sums. The sums of a row's
// slices wait in shared memory and are added in the order of the slices: the same bits on every
// run.
//
// With kNorm x is first taken through (gelu and) layernorm, each row group for itself: its slices'
// sums meet in shared memory. The norm's parameters are asked for before pdl_wait.
#include "kernels/cuda/device/bulk.cuh"
#include "kernels/cuda/device/digits.cuh"
#include "kernels/cuda/device/gelu.cuh"
#include "kernels/cuda/device/mbarrier_ring.cuh"
#include "kernels/cuda/device/pdl.cuh"
#include "kernels/cuda/device/reduce.cuh"
#include "kernels/cuda/device/stream.cuh"
#include "kernels/cuda/device/vec.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/layernorm_rows.cuh"
#include "kernels/cuda/vector_gemv.h"

namespace engine::cuda {
namespace {

constexpr int kWarps = kSm90GemvWarps, kThreads = (kWarps + 1) * 32;

// A lane's part of a slice: kVectors vectors of kPer columns, 32 · kPer columns apart.
template <typename W>
struct Slice {
  static constexpr int kPer = kPerVector<W>, kVectors = kSm90GemvSlice / (32 * kPer);
  int first;  // the lane's first column

  __device__ Slice(int slice)
      : first(slice * kSm90GemvSlice + static_cast<int>(threadIdx.x) % 32 * kPer) {}
  __device__ int column(int v) const { return first + v * 32 * kPer; }
};

// x of the lane's columns, zeros past the last.
template <typename T, typename W>
__device__ void load_x(const Slice<W>& slice, const void* x, int columns,
                       float (&value)[Slice<W>::kVectors][Slice<W>::kPer]) {
  constexpr int kPer = Slice<W>::kPer, kPerX = kPerVector<T>, kVectors = Slice<W>::kVectors;
  static_assert(kPer % kPerX == 0);
  uint4 raw[kVectors][kPer / kPerX];
#pragma unroll
  for (int v = 0; v < kVectors; ++v) {
#pragma unroll
    for (int i = 0; i < kPer / kPerX; ++i) {
      const int k = slice.column(v) + i * kPerX;
      raw[v][i] = k < columns ? load_vector(static_cast<const T*>(x) + k) : uint4{};
    }
  }
#pragma unroll
  for (int v = 0; v < kVectors; ++v) {
#pragma unroll
    for (int i = 0; i < kPer / kPerX; ++i) {
      float part[kPerX];
      unpack<T>(raw[v][i], part);
#pragma unroll
      for (int j = 0; j < kPerX; ++j) value[v][i * kPerX + j] = part[j];
    }
  }
}

// The norm's weight and bias of the lane's columns as they lie in memory, where they are of type T.
template <typename T>
struct NormParameters {
  static constexpr int kVectors = Slice<T>::kVectors;
  uint4 weight[kVectors], bias[kVectors];

  __device__ NormParameters(const VectorGemv& p, const Slice<T>& slice) {
#pragma unroll
    for (int v = 0; v < kVectors; ++v) {
      const bool there = !p.f32_norm && slice.column(v) < p.columns;
      const T *weights = static_cast<const T*>(p.norm_weight),
              *biases = static_cast<const T*>(p.norm_bias);
      weight[v] = there ? load_vector(weights + slice.column(v)) : uint4{};
      bias[v] = there ? load_vector(biases + slice.column(v)) : uint4{};
    }
  }
};

// The sum over the warps of a row group, in every lane. `partial`: (2, kWarps); calls take turns
// with its rows, so that one is not overwritten while a slow warp still reads it.
__device__ inline float sum_of_slices(float value, float* partial, int slices, int group) {
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
  value = warp_sum(value);
  if (lane == 0) partial[warp] = value;
  named_barrier_sync(1, kWarps * 32);
  return warp_sum(lane < slices ? partial[group * slices + lane] : 0.0f);
}

// layernorm(x) or layernorm(gelu(x)), rounded to T where the ops one by one would store it. All
// multiplying warps call.
template <typename T>
__device__ void normalise(const VectorGemv& p, const Slice<T>& slice, const NormParameters<T>& norm,
                          int slices, int group, float (*partial)[kWarps],
                          float (&x)[Slice<T>::kVectors][Slice<T>::kPer]) {
  constexpr int kPer = Slice<T>::kPer, kVectors = Slice<T>::kVectors;
  float total = 0.0f, squares = 0.0f;
#pragma unroll
  for (int v = 0; v < kVectors; ++v) {
#pragma unroll
    for (int i = 0; i < kPer; ++i) {
      if (p.gelu) x[v][i] = round_to<T>(gelu_tanh(x[v][i]));
      total += x[v][i];
    }
  }
  const float share = 1.0f / static_cast<float>(p.columns);
  const float mean = sum_of_slices(total, partial[0], slices, group) * share;
#pragma unroll
  for (int v = 0; v < kVectors; ++v) {
    if (slice.column(v) >= p.columns) continue;
#pragma unroll
    for (int i = 0; i < kPer; ++i) squares = fmaf(x[v][i] - mean, x[v][i] - mean, squares);
  }
  const float scale =
      1.0f / sqrtf(sum_of_slices(squares, partial[1], slices, group) * share + p.eps);
#pragma unroll
  for (int v = 0; v < kVectors; ++v) {
    if (slice.column(v) >= p.columns) continue;
    float weight[kPer], bias[kPer];
    if (p.f32_norm) {
      load_parameters<T>(p.norm_weight, true, slice.column(v), weight);
      load_parameters<T>(p.norm_bias, true, slice.column(v), bias);
    } else {
      unpack<T>(norm.weight[v], weight);
      unpack<T>(norm.bias[v], bias);
    }
#pragma unroll
    for (int i = 0; i < kPer; ++i) {
      x[v][i] = round_to<T>(fmaf((x[v][i] - mean) * scale, weight[i], bias[i]));
    }
  }
}

// x of a warp's columns, ready to be multiplied by rows.
template <typename T, typename W>
struct SliceX {
  static constexpr int kPer = Slice<W>::kPer, kVectors = Slice<W>::kVectors;
  float x[kVectors][kPer];

  __device__ SliceX(const Slice<W>& slice, const void* from, int columns) {
    load_x<T, W>(slice, from, columns, x);
  }
  // The product by the warp's part of a row, in every lane.
  __device__ float times(const uint4 (&raw)[kVectors]) const {
    float sum[4] = {};
#pragma unroll
    for (int v = 0; v < kVectors; ++v) {
      float weight[kPer];
      unpack<W>(raw[v], weight);
#pragma unroll
      for (int i = 0; i < kPer; ++i) sum[i % 4] = fmaf(weight[i], x[v][i], sum[i % 4]);
    }
    return warp_sum((sum[0] + sum[1]) + (sum[2] + sum[3]));
  }
};

template <typename T>
struct SliceX<T, std::int8_t> {
  static constexpr int kPer = 16, kVectors = Slice<std::int8_t>::kVectors;
  std::uint32_t digit[3][kVectors][4];  // four columns a word
  float unit, tiny;

  __device__ SliceX(const Slice<std::int8_t>& slice, const void* from, int columns) {
    float x[kVectors][kPer];
    load_x<T, std::int8_t>(slice, from, columns, x);
    std::uint32_t largest = 0;  // magnitudes compare as integers, a NaN above all
#pragma unroll
    for (int v = 0; v < kVectors; ++v) {
#pragma unroll
      for (int i = 0; i < kPer; ++i) largest = max(largest, __float_as_uint(fabsf(x[v][i])));
    }
    const DigitScale scale(__uint_as_float(__reduce_max_sync(kFullWarp, largest)));
    unit = scale.unit, tiny = scale.tiny;
#pragma unroll
    for (int v = 0; v < kVectors; ++v) {
#pragma unroll
      for (int four = 0; four < 4; ++four) {
        std::uint32_t word[4];
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          word[i] = digit_word(x[v][four * 4 + i] * scale.first * scale.second);
        }
#pragma unroll
        for (unsigned d = 0; d < 3; ++d) {
          const unsigned pick = d | (d + 4) << 4;  // byte d of either word
          digit[d][v][four] = __byte_perm(__byte_perm(word[0], word[1], pick),
                                          __byte_perm(word[2], word[3], pick), 0x5410);
        }
      }
    }
  }
  __device__ float times(const uint4 (&raw)[kVectors]) const {
    int sum[3] = {};
#pragma unroll
    for (int v = 0; v < kVectors; ++v) {
      const std::uint32_t words[4] = {raw[v].x, raw[v].y, raw[v].z, raw[v].w};
#pragma unroll
      for (int i = 0; i < 4; ++i) {
#pragma unroll
        for (int d = 0; d < 3; ++d) {
          sum[d] = __dp4a(static_cast<int>(words[i]), static_cast<int>(digit[d][v][i]), sum[d]);
        }
      }
    }
    // At most 1024 · 128 · 128 each: exact as floats.
    static_assert(kSm90GemvSlice <= 1024);
    float part[3];
#pragma unroll
    for (int d = 0; d < 3; ++d) {
      part[d] = static_cast<float>(__reduce_add_sync(kFullWarp, sum[d]));
    }
    return fmaf(part[2], 65536.0f, fmaf(part[1], 256.0f, part[0])) * unit * tiny;
  }
};

// A row of the result: its slot, its expert and where its weights lie.
struct RowPlace {
  int slot, expert;
  std::int64_t weight_row;
  bool known;

  // `own_expert` of lane s is the expert of slot s, where experts are chosen; all lanes call.
  __device__ RowPlace(const VectorGemv& p, int row, int own_expert) {
    slot = p.slots == 1 ? 0 : row / p.outputs;
    expert = p.experts == nullptr ? slot : __shfl_sync(kFullWarp, own_expert, slot);
    known = expert >= 0 && expert < p.count;
    weight_row = static_cast<std::int64_t>(expert - slot) * p.outputs + row;
  }
};

// The block's rows, and the ring that they come through.
struct Sm90GemvRing {
  std::uint32_t full, empty;  // barriers, one of each a stage
  std::uint32_t data;         // (stages, row_groups, K)
  int stages;                 // that the block has
  int first_row, stage_rows;  // of its first stage; from stage to stage
  unsigned row_bytes;

  // The row of a group in the block's stage `i`; it may not exist.
  __device__ int row(int i, int group) const { return first_row + i * stage_rows + group; }
};

// The copying warp's place in the ring. (Unused, as what follows, where the kernel has no body.)
struct CopyPlace {
  unsigned slot = 0, lap = 0;
};
[[maybe_unused]] __device__ void advance(CopyPlace& place, int stages) {
  if (++place.slot == static_cast<unsigned>(stages)) place.slot = 0, ++place.lap;
}

// The copying warp: stage `i` into its slot, where that is free.
[[maybe_unused]] __device__ inline void copy_stage(const VectorGemv& p, const Sm90GemvPlan& plan,
                                                   const Sm90GemvRing& ring, CopyPlace to, int i,
                                                   int own_expert, std::uint64_t policy) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const unsigned slot = to.slot;
  if (to.lap > 0) mbarrier_wait(ring.empty + slot * 8, (to.lap & 1) ^ 1);
  const int row = ring.row(i, lane);
  const bool exists = lane < plan.row_groups && row < p.rows;
  const RowPlace place(p, exists ? row : 0, own_expert);
  const bool wanted = exists && place.known;
  const unsigned count = static_cast<unsigned>(__popc(__ballot_sync(kFullWarp, wanted)));
  if (lane == 0) mbarrier_arrive_expect(ring.full + slot * 8, count * ring.row_bytes);
  __syncwarp();
  if (!wanted) return;
  const unsigned at = slot * static_cast<unsigned>(plan.row_groups) + static_cast<unsigned>(lane);
  bulk_copy(ring.data + at * ring.row_bytes,
            static_cast<const char*>(p.weight) + place.weight_row * ring.row_bytes, ring.row_bytes,
            ring.full + slot * 8, policy);
}

template <typename T, typename W>
__device__ void multiply_stages(const VectorGemv& p, const Sm90GemvPlan& plan,
                                const Sm90GemvRing& ring, const SliceX<T, W>& x,
                                const Slice<W>& own, int group, int slice, const char* data,
                                float* partial) {
  constexpr int kVectors = Slice<W>::kVectors;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  unsigned slot = 0, parity = 0;
  for (int i = 0; i < ring.stages; ++i) {
    const auto* from = reinterpret_cast<const W*>(
        data + (slot * static_cast<unsigned>(plan.row_groups) + static_cast<unsigned>(group)) *
                   ring.row_bytes);
    mbarrier_wait(ring.full + slot * 8, parity);
    uint4 raw[kVectors];
#pragma unroll
    for (int v = 0; v < kVectors; ++v) {
      raw[v] = own.column(v) < p.columns ? load_vector(from + own.column(v)) : uint4{};
    }
    __syncwarp();
    if (lane == 0) mbarrier_arrive(ring.empty + slot * 8);
    const float sum = x.times(raw);
    if (lane == 0) partial[(i * plan.row_groups + group) * plan.slices + slice] = sum;
    if (++slot == static_cast<unsigned>(plan.stages)) slot = 0, parity ^= 1;
  }
}

template <typename T, typename W, bool kNorm>
__global__ void __launch_bounds__(kThreads, 1)
    sm90_vector_gemv_kernel(const VectorGemv p, const Sm90GemvPlan plan) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  extern __shared__ uint4 shared[];  // the ring, then (stages, row groups, slices) sums
  __shared__ Mbarrier full[kSm90GemvStages], empty[kSm90GemvStages];
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
  Sm90GemvRing ring;
  ring.full = shared_address(full), ring.empty = shared_address(empty);
  ring.data = shared_address(shared);
  const int block = static_cast<int>(blockIdx.x), blocks = static_cast<int>(gridDim.x);
  ring.stages = (plan.total_stages - block + blocks - 1) / blocks;
  ring.first_row = block * plan.row_groups;
  ring.stage_rows = blocks * plan.row_groups;
  ring.row_bytes = static_cast<unsigned>(p.columns) * sizeof(W);
  float* partial = reinterpret_cast<float*>(reinterpret_cast<char*>(shared) + plan.ring_bytes);

  pdl_launch_dependents();
  int own_expert = 0;
  if (p.experts != nullptr) {
    pdl_wait();
    if (lane < p.slots) own_expert = p.experts[lane * p.experts_stride];
  }
  const int ahead = min(plan.stages, ring.stages);
  const std::uint64_t policy = evict_first_policy();
  CopyPlace to;
  if (warp == kWarps) {
    if (lane < plan.stages) {
      mbarrier_init(full + lane, 1);
      mbarrier_init(empty + lane, static_cast<unsigned>(plan.row_groups * plan.slices));
      fence_mbarrier_init();
    }
    __syncwarp();
    for (int i = 0; i < ahead; ++i, advance(to, plan.stages)) {
      copy_stage(p, plan, ring, to, i, own_expert, policy);
    }
  }
  const int slice = warp % plan.slices, group = warp / plan.slices;
  const Slice<W> own(slice);
  const auto run = [&](const SliceX<T, W>& x) {
    __syncthreads();  // the barriers are initialised
    if (warp == kWarps) {
      for (int i = ahead; i < ring.stages; ++i, advance(to, plan.stages)) {
        copy_stage(p, plan, ring, to, i, own_expert, policy);
      }
    } else if (group < plan.row_groups) {
      multiply_stages<T, W>(p, plan, ring, x, own, group, slice,
                            reinterpret_cast<const char*>(shared), partial);
    }
  };
  if constexpr (kNorm) {
    __shared__ float norm_partial[2][kWarps];
    const NormParameters<T> norm(p, own);
    pdl_wait();
    SliceX<T, W> x(own, p.x, p.columns);
    if (warp < kWarps) {
      normalise<T>(p, own, norm, plan.slices, group < plan.row_groups ? group : 0, norm_partial,
                   x.x);
    }
    run(x);
  } else {
    pdl_wait();
    run(SliceX<T, W>(own, p.x, p.columns));
  }
  __syncthreads();  // all sums are there

  const int block_rows = ring.stages * plan.row_groups;
  for (int base = warp * 32; base < block_rows; base += kThreads) {
    const int at = base + lane, stage = at / plan.row_groups;
    const int row = ring.row(stage, at - stage * plan.row_groups);
    const bool exists = at < block_rows && row < p.rows;
    const RowPlace place(p, exists ? row : 0, own_expert);
    if (!exists) continue;
    float total = 0.0f;
    for (int s = 0; s < plan.slices; ++s) total += partial[at * plan.slices + s];
    if (place.known && p.scales != nullptr) {
      total *= scale_value(p.scales[place.weight_row]);
    }
    const int n = row - place.slot * p.outputs;
    if (p.bias != nullptr) total += to_f32(static_cast<const T*>(p.bias)[n]);
    static_cast<T*>(p.out)[place.slot * p.out_stride + n] =
        from_f32<T>(place.known ? total : nanf(""));
  }
#endif
}

}  // namespace

void sm90_vector_gemv(CudaContext& context, const VectorGemv& p, DType x, QuantFormat weight,
                      const Sm90GemvPlan& plan) {
  const bool int8 = weight == QuantFormat::kInt8, norm = p.norm_weight != nullptr;
  ENGINE_REQUIRE(!norm || !int8, "sm90_vector_gemv: a norm before int8 weights");
  const auto run = [&](auto kernel) {
    launch(context, kernel, to_unsigned(plan.blocks), kThreads, plan.shared_bytes, p, plan);
  };
  dispatch_float(x, [&](auto tag) {
    using T = typename decltype(tag)::type;
    if (norm) return run(sm90_vector_gemv_kernel<T, T, true>);
    if (!int8) return run(sm90_vector_gemv_kernel<T, T, false>);
    if constexpr (sizeof(T) == 2) return run(sm90_vector_gemv_kernel<T, std::int8_t, false>);
    fail(ErrorKind::kInternal, "sm90_vector_gemv: int8 weights by x of type ", x);
  });
}

}  // namespace engine::cuda
