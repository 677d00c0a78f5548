// One vector by one matrix, or by some of a stack of matrices chosen on the device:
//
//   out[s, n] = (Σ_k W[e(s) · N + n, k] · x[k]) × scale + bias[n]
//
// Limit: the bytes of the chosen rows of W, read once; where they are few, the latency of a launch
// and of one round of loads.
//
// Layout: W (E · N, K) row-major, x (K). Who computes what: a warp takes a whole row at a time,
// rows dealt out to blocks first and to their warps then, so that few rows still use every
// multiprocessor. A lane has every 32nd 16-byte vector of the row and keeps kDepth of them in
// flight in registers, across the ends of rows. The first ones are asked for before x, and where no
// expert has to be known before pdl_wait. Every block has x in shared memory as fp32, in planes of
// four elements a lane, so that lanes read neighbouring 16 bytes: x is converted once and not once
// a row.
//
// With kNorm x is first taken through (gelu and) layernorm by every block for itself, rounded to T
// where the ops one by one would store it.
//
// vector_gemv_direct has a row and its x in registers, all asked for at once. Of few short rows,
// where a launch and one round of loads are all the time there is, a warp has one: the whole matrix
// is in flight; nothing goes through shared memory and no warp waits for another. Of longer ones a
// block has one, and blocks begin in the order of their rows, so that what is read at a time lies
// together; they read x from L1, which is why it gets what shared memory could have.
#include <algorithm>

#include "kernels/cuda/device/gelu.cuh"
#include "kernels/cuda/device/int8.cuh"
#include "kernels/cuda/device/pdl.cuh"
#include "kernels/cuda/device/reduce.cuh"
#include "kernels/cuda/device/stream.cuh"
#include "kernels/cuda/device/vec.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/launchers.h"
#include "kernels/cuda/layernorm_rows.cuh"
#include "kernels/cuda/vector_gemv.h"

namespace engine::cuda {
namespace {

constexpr int kThreads = kVectorGemvThreads, kWarps = kThreads / 32, kDepth = kVectorGemvDepth;

// Where in shared memory the four elements from 4 · `four` on lie, for weights of kPer a vector.
template <int kPer>
__device__ int place_of(int four) {
  constexpr int kPlanes = kPer / 4, kFours = 32 * kPlanes;  // of a chunk
  return four / kFours * kFours + four % kPlanes * 32 + four % kFours / kPlanes;
}

// Calls f(k, place, values) for the thread's vectors of x, padded with zeros.
template <typename T, int kPer, typename F>
__device__ void for_own_vectors(int padded, const F& f) {
  for (int k = static_cast<int>(threadIdx.x) * kPerVector<T>; k < padded;
       k += static_cast<int>(blockDim.x) * kPerVector<T>) {
    f(k);
  }
}

template <typename T, int kPer>
__device__ void put_vector(float4* x_shared, int k, const float (&value)[kPerVector<T>]) {
#pragma unroll
  for (int i = 0; i < kPerVector<T>; i += 4) {
    x_shared[place_of<kPer>(k / 4 + i / 4)] =
        make_float4(value[i], value[i + 1], value[i + 2], value[i + 3]);
  }
}
template <typename T, int kPer>
__device__ void get_vector(const float4* x_shared, int k, float (&value)[kPerVector<T>]) {
#pragma unroll
  for (int i = 0; i < kPerVector<T>; i += 4) {
    const float4 four = x_shared[place_of<kPer>(k / 4 + i / 4)];
    value[i] = four.x, value[i + 1] = four.y, value[i + 2] = four.z, value[i + 3] = four.w;
  }
}

// x into shared memory; a thread reads back only what it wrote itself. `partial` holds 32 floats.
template <typename T, int kPer, bool kNorm>
__device__ void fill_x(const VectorGemv& p, float4* x_shared, float* partial, int padded) {
  float value[kPerVector<T>];
  float total = 0.0f;
  for_own_vectors<T, kPer>(padded, [&](int k) {
    const uint4 raw = k < p.columns ? load_vector(static_cast<const T*>(p.x) + k) : uint4{};
    unpack<T>(raw, value);
#pragma unroll
    for (int i = 0; kNorm && i < kPerVector<T>; ++i) {
      if (p.gelu) value[i] = round_to<T>(gelu_tanh(value[i]));
      total += value[i];
    }
    put_vector<T, kPer>(x_shared, k, value);
  });
  if constexpr (!kNorm) return;
  const float mean = block_reduce(total, partial, 0.0f, SumOp{}) / static_cast<float>(p.columns);
  float squares = 0.0f;
  for_own_vectors<T, kPer>(p.columns, [&](int k) {
    get_vector<T, kPer>(x_shared, k, value);
#pragma unroll
    for (int i = 0; i < kPerVector<T>; ++i) squares += (value[i] - mean) * (value[i] - mean);
  });
  squares = block_reduce(squares, partial, 0.0f, SumOp{});
  const float scale = 1.0f / sqrtf(squares / static_cast<float>(p.columns) + p.eps);
  for_own_vectors<T, kPer>(p.columns, [&](int k) {
    float weight[kPerVector<T>], bias[kPerVector<T>];
    load_parameters<T>(p.norm_weight, p.f32_norm, k, weight);
    load_parameters<T>(p.norm_bias, p.f32_norm, k, bias);
    get_vector<T, kPer>(x_shared, k, value);
#pragma unroll
    for (int i = 0; i < kPerVector<T>; ++i) {
      value[i] = round_to<T>(fmaf((value[i] - mean) * scale, weight[i], bias[i]));
    }
    put_vector<T, kPer>(x_shared, k, value);
  });
}

// Without the division, which takes as long as a load from L1, where there is one slot.
__device__ inline int slot_of(const VectorGemv& p, int row) {
  return p.slots == 1 ? 0 : row / p.outputs;
}

template <typename T, typename W, bool kNorm>
__global__ void __launch_bounds__(kThreads, kVectorGemvBlocksPerSm)
    vector_gemv_kernel(const VectorGemv p) {
  constexpr int kPer = kPerVector<W>, kChunk = 32 * kPer, kPlanes = kPer / 4;
  extern __shared__ float4 x_shared[];  // (chunks, kPlanes, 32)
  __shared__ float partial[32];
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
  const int chunks = (p.columns + kChunk - 1) / kChunk, steps = (chunks + kDepth - 1) / kDepth;
  const int stride = static_cast<int>(gridDim.x * (blockDim.x / 32));
  const int first = warp * static_cast<int>(gridDim.x) + static_cast<int>(blockIdx.x);

  int own_expert = 0;  // lane s has the expert of slot s
  const auto expert_of = [&](int row) {
    const int slot = slot_of(p, row);
    return p.experts == nullptr ? slot : __shfl_sync(kFullWarp, own_expert, slot);
  };
  // The row whose vectors are asked for, and how far that is.
  uint4 raw[kDepth];
  int ahead = first, ahead_step = 0;
  const W* address = static_cast<const W*>(p.weight);
  bool readable = false;
  const auto seek = [&] {
    readable = false;
    if (ahead >= p.rows) return;
    const int expert = expert_of(ahead);
    readable = expert >= 0 && expert < p.count;
    const std::int64_t row =
        static_cast<std::int64_t>(expert - slot_of(p, ahead)) * p.outputs + ahead;
    if (readable) address = static_cast<const W*>(p.weight) + row * p.columns + lane * kPer;
  };
  const auto fetch = [&](int i) {
    const int k = (ahead_step * kDepth + i) * kChunk;
    raw[i] = readable && k + lane * kPer < p.columns ? load_streaming(address + k) : uint4{};
  };
  const auto advance = [&] {
    if (++ahead_step < steps) return;
    ahead_step = 0;
    ahead += stride;
    seek();
  };

  pdl_launch_dependents();
  if (p.experts != nullptr) {
    pdl_wait();
    if (lane < p.slots) own_expert = p.experts[lane * p.experts_stride];
  }
  seek();
#pragma unroll
  for (int i = 0; i < kDepth; ++i) fetch(i);
  advance();
  if (p.experts == nullptr) pdl_wait();
  fill_x<T, kPer, kNorm>(p, x_shared, partial, chunks * kChunk);
  __syncthreads();  // x is complete

  for (int row = first; row < p.rows; row += stride) {
    float sum[4] = {};
    for (int step = 0; step < steps; ++step) {
#pragma unroll
      for (int i = 0; i < kDepth; ++i) {
        const int chunk = step * kDepth + i;
        const uint4 now = raw[i];
        fetch(i);
        if (chunk < chunks) {
          float weight[kPer];
          unpack<W>(now, weight);
#pragma unroll
          for (int plane = 0; plane < kPlanes; ++plane) {
            const float4 x = x_shared[(chunk * kPlanes + plane) * 32 + lane];
            sum[0] = fmaf(weight[4 * plane], x.x, sum[0]);
            sum[1] = fmaf(weight[4 * plane + 1], x.y, sum[1]);
            sum[2] = fmaf(weight[4 * plane + 2], x.z, sum[2]);
            sum[3] = fmaf(weight[4 * plane + 3], x.w, sum[3]);
          }
        }
      }
      advance();
    }
    const int expert = expert_of(row), slot = slot_of(p, row), n = row - slot * p.outputs;
    float total = warp_sum((sum[0] + sum[1]) + (sum[2] + sum[3]));
    if (lane != 0) continue;
    const bool known = expert >= 0 && expert < p.count;
    if (known && p.scales != nullptr) {
      const std::int64_t at = static_cast<std::int64_t>(expert) * p.outputs + n;
      total *= scale_value(p.scales[at]);
    }
    if (p.bias != nullptr) total += to_f32(static_cast<const T*>(p.bias)[n]);
    static_cast<T*>(p.out)[slot * p.out_stride + n] = from_f32<T>(known ? total : nanf(""));
  }
}

// What the direct kernel needs where there is one matrix: it fits one line of the constant cache.
struct DirectGemv {
  const void* x;                // (K) of type T
  const void* weight;           // (N, K)
  const std::uint16_t* scales;  // (N) or null
  const void* bias;             // (N) or null
  void* out;                    // (N)
  int columns, rows;
};

// A row of a weight that is known times x, plus bias, into *out; null scale or bias: there is none.
// By a warp, with kBlock by the block; with kWaits it has yet to wait for x.
template <typename T, typename W, int kVectors, bool kBlock, bool kWaits>
__device__ void multiply_row(const W* weights, const void* x_row, int columns,
                             const std::uint16_t* scale_at, const T* bias_at, T* out, bool known) {
  constexpr int kPer = kPerVector<W>, kPerX = kPerVector<T>, kParts = kPer / kPerX;
  const int lane = static_cast<int>(kBlock ? threadIdx.x : threadIdx.x % 32u);
  const int lanes = kBlock ? static_cast<int>(blockDim.x) : 32;
  const std::uint64_t policy = evict_first_policy();
  uint4 raw[kVectors], raw_x[kVectors][kParts];
#pragma unroll
  for (int v = 0; v < kVectors; ++v) {
    const int k = (v * lanes + lane) * kPer;
    raw[v] = k < columns ? load_streaming(weights + k, policy) : uint4{};
  }
  const float scale = scale_at == nullptr ? 1.0f : scale_value(*scale_at);
  // x behind the weights: every multiprocessor asks for the same lines, which takes longer.
  // (Without the second condition, which is always true, ptxas moves the wait ahead of the
  // weights.)
  if (kWaits && columns > 0) pdl_wait();
#pragma unroll
  for (int v = 0; v < kVectors; ++v) {
#pragma unroll
    for (int i = 0; i < kParts; ++i) {
      const int k = (v * lanes + lane) * kPer + i * kPerX;
      raw_x[v][i] = k < columns ? load_vector(static_cast<const T*>(x_row) + k) : uint4{};
    }
  }
  const float bias = bias_at == nullptr ? 0.0f : to_f32(*bias_at);
  float sum[4] = {};
#pragma unroll
  for (int v = 0; v < kVectors; ++v) {
    float weight[kPer], x[kPerX];
    unpack<W>(raw[v], weight);
#pragma unroll
    for (int i = 0; i < kParts; ++i) {
      unpack<T>(raw_x[v][i], x);
#pragma unroll
      for (int j = 0; j < kPerX; ++j) sum[j % 4] = fmaf(weight[i * kPerX + j], x[j], sum[j % 4]);
    }
  }
  float total = warp_sum((sum[0] + sum[1]) + (sum[2] + sum[3]));
  if constexpr (kBlock) {
    __shared__ float partial[kVectorGemvRowThreads / 32];
    if (lane % 32 == 0) partial[lane / 32] = total;
    __syncthreads();
    if (lane >= 32) return;
    total = warp_sum(lane < lanes / 32 ? partial[lane] : 0.0f);
  }
  if (lane == 0) *out = from_f32<T>(known ? fmaf(total, scale, bias) : nanf(""));
}

// Registers of a thread of the direct kernels. Of fewer the compiler asks for one part of x after
// the use of another, a latency each; a block that has a row of x's own type does without, and 1280
// threads of such a multiprocessor read faster than 1024.
template <typename T, typename W, bool kBlock>
constexpr int kDirectRegisters = kBlock && sizeof(T) == sizeof(W) ? 48 : 64;

// The row of the warp, or of the block.
template <bool kBlock>
__device__ int direct_row() {
  if (kBlock) return static_cast<int>(blockIdx.x);
  return static_cast<int>(blockIdx.x * (kVectorGemvDirectThreads / 32) + threadIdx.x / 32u);
}
template <typename T, typename W, int kVectors, bool kBlock>
__global__ void __maxnreg__((kDirectRegisters<T, W, kBlock>))
    vector_gemv_direct_kernel(const DirectGemv p) {
  const int row = direct_row<kBlock>();
  if (row >= p.rows) return;
  pdl_launch_dependents();
  multiply_row<T, W, kVectors, kBlock, true>(
      static_cast<const W*>(p.weight) + static_cast<std::int64_t>(row) * p.columns, p.x, p.columns,
      p.scales == nullptr ? nullptr : p.scales + row,
      p.bias == nullptr ? nullptr : static_cast<const T*>(p.bias) + row,
      static_cast<T*>(p.out) + row, true);
}

// The same of several matrices, perhaps chosen by p.experts.
template <typename T, typename W, int kVectors, bool kBlock>
__global__ void __maxnreg__((kDirectRegisters<T, W, kBlock>))
    vector_gather_direct_kernel(const VectorGemv p) {
  const int row = direct_row<kBlock>();
  if (row >= p.rows) return;
  pdl_launch_dependents();
  const int slot = slot_of(p, row), n = row - slot * p.outputs;
  pdl_wait();
  const int expert = p.experts == nullptr ? slot : p.experts[slot * p.experts_stride];
  const bool known = expert >= 0 && expert < p.count;
  const std::int64_t weight_row = static_cast<std::int64_t>(known ? expert : 0) * p.outputs + n;
  multiply_row<T, W, kVectors, kBlock, false>(
      static_cast<const W*>(p.weight) + weight_row * p.columns, p.x, p.columns,
      p.scales == nullptr ? nullptr : p.scales + weight_row,
      p.bias == nullptr ? nullptr : static_cast<const T*>(p.bias) + n,
      static_cast<T*>(p.out) + slot * p.out_stride + n, known);
}

// Any number of columns, any alignment: a warp per row, one element a lane at a time.
template <typename T, typename W>
__global__ void __launch_bounds__(kThreads) vector_gemv_plain_kernel(const VectorGemv p) {
  pdl_launch_dependents();
  pdl_wait();
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int row = static_cast<int>(blockIdx.x * kWarps + threadIdx.x / 32);
  if (row >= p.rows) return;
  const int slot = row / p.outputs, n = row % p.outputs;
  const int expert = p.experts == nullptr ? slot : p.experts[slot * p.experts_stride];
  const bool known = expert >= 0 && expert < p.count;
  const std::int64_t at = static_cast<std::int64_t>(known ? expert : 0) * p.outputs + n;
  const W* weight = static_cast<const W*>(p.weight) + at * p.columns;
  float sum = 0.0f;
  for (int k = lane; k < p.columns; k += 32) {
    sum = fmaf(to_f32(weight[k]), to_f32(static_cast<const T*>(p.x)[k]), sum);
  }
  sum = warp_sum(sum);
  if (lane != 0) return;
  if (p.scales != nullptr) sum *= scale_value(p.scales[at]);
  if (p.bias != nullptr) sum += to_f32(static_cast<const T*>(p.bias)[n]);
  static_cast<T*>(p.out)[slot * p.out_stride + n] = from_f32<T>(known ? sum : nanf(""));
}

template <typename T, typename W, int kVectors, bool kBlock>
void run_direct(CudaContext& context, const VectorGemv& p, const VectorGemvPlan& plan) {
  const auto run = [&](auto kernel, const auto& parameters) {
    launch(context, kBlock ? Carveout::kL1 : Carveout::kShared, kernel, to_unsigned(plan.blocks),
           to_unsigned(plan.threads), plan.shared_bytes, parameters);
  };
  if (p.experts == nullptr && p.slots == 1) {
    return run(vector_gemv_direct_kernel<T, W, kVectors, kBlock>,
               DirectGemv{p.x, p.weight, p.scales, p.bias, p.out, p.columns, p.rows});
  }
  run(vector_gather_direct_kernel<T, W, kVectors, kBlock>, p);
}
template <typename T, typename W>
void run_direct(CudaContext& context, const VectorGemv& p, const VectorGemvPlan& plan) {
  if (plan.block_rows) return run_direct<T, W, kVectorGemvDirectVectors, true>(context, p, plan);
  if (plan.vectors == 1) return run_direct<T, W, 1, false>(context, p, plan);
  if (plan.vectors == 2) return run_direct<T, W, 2, false>(context, p, plan);
  run_direct<T, W, 4, false>(context, p, plan);
}

void run_plan(CudaContext& context, const VectorGemv& p, DType x, QuantFormat weight,
              const VectorGemvPlan& plan) {
  const bool int8 = weight == QuantFormat::kInt8, norm = p.norm_weight != nullptr;
  dispatch_float(x, [&](auto tag) {
    using T = typename decltype(tag)::type;
    const auto run = [&](auto kernel) {
      launch(context, kernel, to_unsigned(plan.blocks), to_unsigned(plan.threads),
             plan.shared_bytes, p);
    };
    if (norm) {
      ENGINE_REQUIRE(plan.kernel == VectorGemvKernel::kStream && !int8,
                     "vector_gemv: a norm before unaligned rows or int8 weights");
      return run(vector_gemv_kernel<T, T, true>);
    }
    switch (plan.kernel) {
      case VectorGemvKernel::kDirect:
        return int8 ? run_direct<T, std::int8_t>(context, p, plan)
                    : run_direct<T, T>(context, p, plan);
      case VectorGemvKernel::kStream:
        return run(int8 ? vector_gemv_kernel<T, std::int8_t, false>
                        : vector_gemv_kernel<T, T, false>);
      case VectorGemvKernel::kPlain:
        return run(int8 ? vector_gemv_plain_kernel<T, std::int8_t>
                        : vector_gemv_plain_kernel<T, T>);
    }
  });
}

}  // namespace

void vector_gemv(CudaContext& context, const VectorGemv& p, const VectorGemvProblem& problem) {
  if (const Sm90GemvPlan plan = choose_sm90_gemv(context.arch(), problem); plan.serves) {
    return sm90_vector_gemv(context, p, problem.x, problem.weight, plan);
  }
  run_plan(context, p, problem.x, problem.weight, choose_vector_gemv(context.arch(), problem));
}

void gather_gemv(CudaContext& context, const GatherGemvCall& call) {
  const std::int64_t slots = call.out.size(0), outputs = call.out.size(1);
  const VectorGemv p{.x = call.x.data,
                     .weight = call.weight.data,
                     .scales = static_cast<const std::uint16_t*>(call.weight.scales),
                     .out = call.out.data,
                     .out_stride = call.out.stride(0),
                     .outputs = static_cast<int>(outputs),
                     .columns = static_cast<int>(call.weight.columns),
                     .rows = static_cast<int>(slots * outputs),
                     .slots = static_cast<int>(slots),
                     .count = static_cast<int>(call.count),
                     .experts = call.experts.as<const std::int32_t>(),
                     .experts_stride = call.experts ? call.experts.stride(0) : 0};
  vector_gemv(context, p,
              {.rows = slots * outputs,
               .columns = call.weight.columns,
               .slots = call.experts ? slots : 0,
               .x = call.x.dtype,
               .weight = call.weight.format,
               .aligned = is_vector_aligned(call.x) && is_vector_aligned(call.weight)});
}

}  // namespace engine::cuda
