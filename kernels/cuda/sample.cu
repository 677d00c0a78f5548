// sample: one token from one row of logits, by the filters and in the order of ops.h.
//
// Layout: logits (V) f32. One block of 1024 threads; the scores z = penalised logit ÷ temperature
// are kept in shared memory where V fits, in global memory's own place (recomputed) where not. All
// is deterministic: counts and masses are integers (a mass is exp(z) in units of 2⁻⁴⁰), so
// the order in which threads add them cannot show.
//   top-k, top-p: a histogram over kBins equal steps of z finds the bin the threshold is
//   in; the few scores of that bin are gathered and ranked among each other exactly. Where they are
//   too many (thousands of nearly equal logits, or a threshold more than kRange below the maximum),
//   bisection over the 32 bits of the score takes their place.
// A score's bin is monotone in the score, so bins and scores never disagree about the order.
// Limit: latency of some ten passes over V and their barriers.
#include <cfloat>

#include "kernels/core/philox.h"
#include "kernels/cuda/device/pdl.cuh"
#include "kernels/cuda/device/reduce.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/launchers.h"

namespace engine::cuda {
namespace {

using Mass = unsigned long long;

constexpr int kThreads = 1024, kBins = 2048, kList = 1024;
constexpr float kRange = 32.0f;  // below e⁻²⁸ of the maximum a mass is 0 anyway

struct SampleArguments {
  const float* logits;  // (V)
  const SamplingParams* params;
  std::uint8_t* seen;  // (V)
  int* position;       // (1)
  int* next_ids;       // (≥ 1)
  int* sampled;        // (2): id, not_finite
  int vocabulary, advance;
  bool cached;  // scores are in shared memory
};

// The scores of this step: how far a penalised logit lies above the greatest one (so never above
// 0), divided by the temperature.
struct Scores {
  const SampleArguments& a;
  float* cache;  // (V) or null
  float temperature, penalty, greatest;

  // Kept finite, so that the penalty can't make an infinity.
  __device__ float penalised(int id, float logit) const {
    if (penalty == 1.0f || a.seen[id] == 0) return logit;
    logit = logit > 0.0f ? logit / penalty : logit * penalty;
    return fminf(fmaxf(logit, -FLT_MAX), FLT_MAX);
  }
  __device__ float score(float penalised_logit) const {
    return (penalised_logit - greatest) / temperature;
  }
  __device__ float operator()(int id) const {
    return cache != nullptr ? cache[id] : score(penalised(id, a.logits[id]));
  }
};

struct alignas(16) SampleShared {  // the cached scores follow it
  std::uint32_t count[kBins];
  Mass mass[kBins];
  float list[kList];
  Mass scan[32];
  float reduce_float[32];
  Mass reduce_mass[32];
  int listed;
  int bin;
  Mass above;  // what the bins before `bin` hold
  std::uint32_t threshold_key;
};

// Orders floats as unsigned integers.
__device__ std::uint32_t order_key(float x) {
  const std::uint32_t bits = __float_as_uint(x + 0.0f);  // −0 becomes +0
  return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}
__device__ float from_order_key(std::uint32_t key) {
  return __uint_as_float(key & 0x80000000u ? key & 0x7fffffffu : ~key);
}

__device__ int bin_of(float z) {
  return static_cast<int>(fminf(-z * (kBins / kRange), static_cast<float>(kBins - 1)));
}

__device__ Mass mass_of(float z) { return static_cast<Mass>(expf(z) * 0x1p40f); }

// The first bin whose running total of `value(bin)` reaches `goal` goes to s.bin, the total before
// it to s.above. The grand total must reach the goal. Every thread calls.
template <typename F>
__device__ void find_bin(SampleShared& s, Mass goal, F value) {
  const int tid = static_cast<int>(threadIdx.x), lane = tid % 32, warp = tid / 32;
  const Mass first = value(2 * tid), both = first + value(2 * tid + 1);
  Mass running = both;
#pragma unroll
  for (int offset = 1; offset < 32; offset *= 2) {
    const Mass below = __shfl_up_sync(kFullWarp, running, offset);
    if (lane >= offset) running += below;
  }
  if (lane == 31) s.scan[warp] = running;
  __syncthreads();  // the warps' totals are in
  for (int w = 0; w < warp; ++w) running += s.scan[w];
  const Mass before = running - both;
  if (before < goal && goal <= running) {
    const bool second = before + first < goal;
    s.bin = 2 * tid + (second ? 1 : 0);
    s.above = second ? before + first : before;
  }
  __syncthreads();  // the bin is known
}

// Sum over the block of value(id) for every id. The result is exact: integers.
template <typename F>
__device__ Mass sum_over(const SampleArguments& a, SampleShared& s, F value) {
  Mass sum = 0;
  for (int id = static_cast<int>(threadIdx.x); id < a.vocabulary; id += kThreads) sum += value(id);
  return block_reduce(sum, s.reduce_mass, Mass{0}, SumOp{});
}

// The greatest score x for which the value of all scores ≥ x, `above` included, reaches `goal`,
// where `value` counts only the scores of bin s.bin. Ranks the bin's scores, or bisects when too
// many.
template <typename Value>
__device__ float find_threshold(const SampleArguments& a, const Scores& scores, SampleShared& s,
                                Mass goal, float least, Value value) {
  const int tid = static_cast<int>(threadIdx.x), bin = s.bin;
  const Mass above = s.above;
  if (tid == 0) s.listed = 0, s.threshold_key = 0;
  __syncthreads();
  const auto in_bin = [&](float z) { return z >= least && bin_of(z) == bin; };
#pragma unroll 4
  for (int id = tid; id < a.vocabulary; id += kThreads) {
    const float z = scores(id);
    if (in_bin(z)) {
      const int at = atomicAdd(&s.listed, 1);
      if (at < kList) s.list[at] = z;
    }
  }
  __syncthreads();  // the bin's scores are listed, in any order
  const int listed = s.listed;
  if (listed <= kList) {
    // A score is kept while what is strictly above it falls short of the goal.
    if (tid < listed) {
      const float mine = s.list[tid];
      Mass reached = above;
      for (int i = 0; i < listed; ++i) reached += s.list[i] >= mine ? value(s.list[i]) : 0;
      if (reached >= goal) atomicMax(&s.threshold_key, order_key(mine));
    }
    __syncthreads();  // the threshold is known
    return from_order_key(s.threshold_key);
  }
  // The invariant: scores ≥ low reach the goal, scores ≥ high do not.
  std::uint32_t low = 0, high = 0xffffffffu;
  while (high - low > 1) {
    const std::uint32_t middle = low + (high - low) / 2;
    const Mass reached = above + sum_over(a, s, [&](int id) {
                           const float z = scores(id);
                           return in_bin(z) && order_key(z) >= middle ? value(z) : Mass{0};
                         });
    (reached >= goal ? low : high) = middle;
  }
  return from_order_key(low);
}

// The smallest score that top-k and top-p keep.
__device__ float filter_threshold(const SampleArguments& a, const Scores& scores, SampleShared& s,
                                  const SamplingParams& params) {
  const int tid = static_cast<int>(threadIdx.x);
  float least = -INFINITY;
  if (params.top_k > 0 && params.top_k < a.vocabulary) {
    for (int i = tid; i < kBins; i += kThreads) s.count[i] = 0;
    __syncthreads();  // bins are empty
#pragma unroll 4
    for (int id = tid; id < a.vocabulary; id += kThreads) {
      atomicAdd(&s.count[bin_of(scores(id))], 1u);
    }
    __syncthreads();  // bins are full
    const auto goal = static_cast<Mass>(params.top_k);
    find_bin(s, goal, [&](int bin) { return static_cast<Mass>(s.count[bin]); });
    least = find_threshold(a, scores, s, goal, least, [](float) { return Mass{1}; });
  }
  if (params.top_p < 1.0f) {
    for (int i = tid; i < kBins; i += kThreads) s.mass[i] = 0;
    __syncthreads();  // bins are empty
    Mass total = 0;
    for (int id = tid; id < a.vocabulary; id += kThreads) {
      const float z = scores(id);
      const Mass mass = z >= least ? mass_of(z) : 0;
      if (mass > 0) atomicAdd(&s.mass[bin_of(z)], mass);
      total += mass;
    }
    total = block_reduce(total, s.reduce_mass, Mass{0}, SumOp{});
    // At least the first score is kept, at most all.
    const double share = static_cast<double>(params.top_p) * static_cast<double>(total);
    const Mass goal = min(total, max(Mass{1}, static_cast<Mass>(ceil(share))));
    find_bin(s, goal, [&](int bin) { return s.mass[bin]; });
    least = fmaxf(least,
                  find_threshold(a, scores, s, goal, least, [&](float z) { return mass_of(z); }));
  }
  return least;
}

// The id with the greatest (value, then the lowest id) over the block. Every thread calls.
__device__ int block_argmax(SampleShared& s, float value, int id) {
  const Mass packed =
      static_cast<Mass>(order_key(value)) << 32 | (0xffffffffu - static_cast<unsigned>(id));
  const Mass best = block_reduce(packed, s.reduce_mass, Mass{0}, MaxOp{});
  return static_cast<int>(0xffffffffu - static_cast<unsigned>(best & 0xffffffffu));
}

__global__ void __launch_bounds__(kThreads, 1) sample_kernel(const SampleArguments a) {
  extern __shared__ uint4 dynamic_shared[];
  SampleShared& s = *reinterpret_cast<SampleShared*>(dynamic_shared);
  const int tid = static_cast<int>(threadIdx.x);
  pdl_launch_dependents();
  pdl_wait();
  const SamplingParams params = *a.params;
  float* cache = a.cached ? reinterpret_cast<float*>(&s + 1) : nullptr;
  Scores scores{a, cache, params.temperature, params.repetition_penalty, 0.0f};

  // Scores once, with the maximum and the check for NaN and infinity (of the logits as they came).
  float best = -INFINITY;
  int best_id = 0;
  std::uint32_t broken = 0;
#pragma unroll 4
  for (int id = tid; id < a.vocabulary; id += kThreads) {
    const float logit = a.logits[id];
    broken |= isfinite(logit) ? 0u : 1u;
    const float z = scores.penalised(id, logit);
    if (cache != nullptr) cache[id] = z;
    if (z > best) best = z, best_id = id;
  }
  scores.greatest = block_reduce(best, s.reduce_float, -INFINITY, MaxOp{});
  broken = static_cast<std::uint32_t>(__syncthreads_or(static_cast<int>(broken)));

  int id = 0;
  if (broken != 0) {
    id = 0;
  } else if (params.temperature <= 0.0f) {
    id = block_argmax(s, best, best_id);
  } else {
    if (cache != nullptr) {
#pragma unroll 4
      for (int i = tid; i < a.vocabulary; i += kThreads) cache[i] = scores.score(cache[i]);
      __syncthreads();  // from penalised logits to scores
    }
    const float least = filter_threshold(a, scores, s, params);
    const auto position = static_cast<std::uint32_t>(*a.position + a.advance);
    float best_score = -INFINITY;
    int best_draw = 0;
    // Four draws come at once, so a thread looks at four adjacent ids.
    for (int block = tid; block * 4 < a.vocabulary; block += kThreads) {
      float z[4];
      if (cache != nullptr && block * 4 + 3 < a.vocabulary) {
        const float4 four = reinterpret_cast<const float4*>(cache)[block];
        z[0] = four.x, z[1] = four.y, z[2] = four.z, z[3] = four.w;
      } else {
        for (int i = 0; i < 4; ++i) {
          z[i] = block * 4 + i < a.vocabulary ? scores(block * 4 + i) : -INFINITY;
        }
      }
      const float top = fmaxf(fmaxf(z[0], z[1]), fmaxf(z[2], z[3]));
      if (!(top >= least) || top == -INFINITY) continue;
      const Philox4 bits = sampling_bits(params.seed, position, static_cast<std::uint32_t>(block));
      for (int i = 0; i < 4; ++i) {
        if (!(z[i] >= least) || (params.min_p > 0.0f && !(expf(z[i]) >= params.min_p))) continue;
        // log(p ÷ e) orders like p ÷ e and does not underflow. e itself needs the accurate
        // logarithm (u close to 1 decides); of log e an absolute error of 2⁻²¹ is below the
        // rounding of z.
        const float score = z[i] - __logf(-logf(uniform_open(bits.word[i])));
        if (score > best_score) best_score = score, best_draw = block * 4 + i;
      }
    }
    id = block_argmax(s, best_score, best_draw);
  }
  if (tid == 0) {
    a.next_ids[0] = id;
    a.seen[id] = 1;
    *a.position += a.advance;
    a.sampled[0] = id;
    a.sampled[1] = broken != 0 ? 1 : 0;
  }
}

}  // namespace

void sample(CudaContext& context, const SampleCall& call) {
  SampleArguments a{};
  a.logits = call.logits.as<float>();
  a.params = call.params.as<SamplingParams>();
  a.seen = call.seen.as<std::uint8_t>();
  a.position = call.position.as<int>();
  a.next_ids = call.next_ids.as<int>();
  a.sampled = call.sampled.as<int>();
  a.vocabulary = static_cast<int>(call.logits.size(0));
  a.advance = call.advance;
  const std::size_t scores = static_cast<std::size_t>(call.logits.size(0)) * sizeof(float);
  a.cached = sizeof(SampleShared) + scores <= context.arch().shared_bytes;
  launch(context, sample_kernel, 1, kThreads, sizeof(SampleShared) + (a.cached ? scores : 0), a);
}

}  // namespace engine::cuda
