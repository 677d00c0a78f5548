// sample: one token from one row of logits, by the filters and in the order of ops.h.
//
// Layout: logits (V) f32. One block of 1024 threads; a score z is a penalised logit's distance from
// the greatest ÷ temperature. Penalised logits are kept in shared memory where V fits, and made
// anew where not. All is deterministic: counts and masses are integers (a mass is exp(z) in units
// of 2⁻⁴⁰), so the order in which threads add them cannot show. A score's bin, one of kBins equal
// steps of z, is monotone in the score, so bins and scores never disagree about the order.
//   top-k of few: the bin of the k-th of the threads' own greatest scores and those above it hold
//   at least k scores, and hardly more. These are listed, ranked among each other exactly, and
//   drawn from. Anything else: a histogram of all scores finds the bin that a threshold is in; the
//   few scores of that bin are listed and ranked. Where they are too many (thousands of nearly
//   equal logits, or a threshold more than kRange below the maximum), bisection over the 32 bits of
//   the score takes their place.
// Limit: of few, one multiprocessor's read of V, six barriers, and what 1024 threads execute
// between them: 20000 cycles in all, of which the read is 6000 and each of finding the bin, listing
// and ranking some 4000. Code that is seldom needed is out of the way in functions. Else some ten
// passes over V.
#include <cfloat>

#include "kernels/core/philox.h"
#include "kernels/cuda/aligned.h"
#include "kernels/cuda/device/order_key.cuh"
#include "kernels/cuda/device/pdl.cuh"
#include "kernels/cuda/device/reduce.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/launchers.h"

namespace engine::cuda {
namespace {

using Mass = unsigned long long;

constexpr int kThreads = 1024, kBins = 2048, kList = 1024;
constexpr int kOwnDigits = 2, kOwnDigitBits = 5;  // of the bin of a thread's own greatest score
constexpr int kFew = 512;        // the largest top-k for which so many maxima tell enough
constexpr float kRange = 32.0f;  // below e⁻²⁸ of the maximum a mass is 0 anyway

struct SampleArguments {
  const float* logits;  // (V)
  const SamplingParams* params;
  std::uint8_t* seen;  // (V)
  int* position;       // (1)
  int* next_ids;       // (≥ 1)
  int* sampled;        // (places, 2): id, not_finite
  int vocabulary, advance, places;
  bool cached;   // penalised logits are kept in shared memory
  bool vectors;  // logits start on a multiple of 16 bytes
};

// The scores of this step: how far a penalised logit lies above the greatest one (so never above
// 0), divided by the temperature.
struct Scores {
  const SampleArguments& a;
  float* cache;  // (V, to a multiple of four) penalised logits, or null
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
  __device__ float logit(int id) const {
    return cache != nullptr ? cache[id] : penalised(id, a.logits[id]);
  }
  __device__ float operator()(int id) const { return score(logit(id)); }
};

struct alignas(16) SampleShared {  // the cached scores follow it
  std::uint32_t count[kBins];
  Mass mass[kBins];
  alignas(16) float list[kList];
  int list_id[kList];
  Mass scan[32];
  int own_count[kOwnDigits][1 << kOwnDigitBits];
  std::uint32_t reduce_key[2][32];
  Mass reduce_mass[32];
  int listed;
  int bin;
  Mass above;  // what the bins before `bin` hold
  std::uint32_t threshold_key;
};

__device__ int bin_of(float z) {
  return static_cast<int>(fminf(-z * (kBins / kRange), static_cast<float>(kBins - 1)));
}

__device__ Mass mass_of(float z) { return static_cast<Mass>(expf(z) * 0x1p40f); }

// The mass that top-p has to keep of `total`: at least the first score's, at most all.
__device__ Mass top_p_goal(float top_p, const Mass& total) {
  const double share = static_cast<double>(top_p) * static_cast<double>(total);
  return min(total, max(Mass{1}, static_cast<Mass>(ceil(share))));
}

// The first bin whose running total of `value(bin)` reaches `goal` goes to s.bin, the total before
// it to s.above. The grand total must reach the goal. Every thread calls.
template <typename F>
__device__ void find_bin(SampleShared& s, Mass goal, F value) {
  const int tid = static_cast<int>(threadIdx.x), lane = tid % 32, warp = tid / 32;
  const Mass first = value(2 * tid), both = first + value(2 * tid + 1);
  Mass running = warp_running_sum(both);
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
    const Mass goal = top_p_goal(params.top_p, total);
    find_bin(s, goal, [&](int bin) { return s.mass[bin]; });
    least = fmaxf(least,
                  find_threshold(a, scores, s, goal, least, [&](float z) { return mass_of(z); }));
  }
  return least;
}

// The greatest of all threads' keys. `row` says which of the two rows of s.reduce_key to use: calls
// take turns, so that one does not overwrite what a slow warp still reads. Every thread calls.
__device__ std::uint32_t block_max(SampleShared& s, int row, std::uint32_t key) {
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
  key = __reduce_max_sync(kFullWarp, key);
  if (lane == 0) s.reduce_key[row][warp] = key;
  __syncthreads();
  return __reduce_max_sync(kFullWarp, s.reduce_key[row][lane]);
}

// The lowest id among those with the greatest value; an id below 0 has none. Every thread calls;
// the call of block_max before was by row 0.
__device__ int block_argmax(SampleShared& s, float value, int id) {
  const std::uint32_t key = id < 0 ? 0 : order_key(value), best = block_max(s, 1, key);
  const std::uint32_t first =
      block_max(s, 0, id >= 0 && key == best ? 0xffffffffu - static_cast<std::uint32_t>(id) : 0);
  return static_cast<int>(0xffffffffu - first);
}

// What the draw maximises: log(p ÷ e) orders like p ÷ e and does not underflow. e = −log u itself
// needs the accurate logarithm (u close to 1 decides); of log e an absolute error of 2⁻²¹ is below
// the rounding of z.
__device__ float drawn_score(float z, std::uint32_t bits) {
  return z - __logf(-logf(uniform_open(bits)));
}
__device__ bool passes_min_p(const SamplingParams& params, float z) {
  return !(params.min_p > 0.0f) || expf(z) >= params.min_p;
}

// The draw by any filters. Every thread calls.
__device__ __noinline__ int draw_from_all(const SampleArguments& a, const Scores& scores,
                                          SampleShared& s, const SamplingParams& params,
                                          std::uint32_t position) {
  const float least = filter_threshold(a, scores, s, params);
  float best_score = -INFINITY;
  int best_draw = -1;
  // Four draws come at once, so a thread looks at four adjacent ids.
  for (int block = static_cast<int>(threadIdx.x); block * 4 < a.vocabulary; block += kThreads) {
    float z[4], top = -INFINITY;
    for (int i = 0; i < 4; ++i) {
      z[i] = block * 4 + i < a.vocabulary ? scores(block * 4 + i) : -INFINITY;
      top = fmaxf(top, z[i]);
    }
    if (!(top >= least) || top == -INFINITY) continue;
    const Philox4 bits = sampling_bits(params.seed, position, static_cast<std::uint32_t>(block));
    for (int i = 0; i < 4; ++i) {
      if (!(z[i] >= least) || z[i] == -INFINITY || !passes_min_p(params, z[i])) continue;
      const float score = drawn_score(z[i], bits.word[i]);
      if (best_draw < 0 || score > best_score) best_score = score, best_draw = block * 4 + i;
    }
  }
  return block_argmax(s, best_score, best_draw);
}

// Whether top-p keeps a listed score, whose place in the list is threadIdx.x: whether the mass
// above it falls short of the goal. `kept` says whether top-k does. Every thread calls.
__device__ __noinline__ bool passes_top_p(SampleShared& s, float top_p, float z, bool kept) {
  const Mass own = kept ? mass_of(z) : 0;
  const Mass total = block_reduce(own, s.reduce_mass, Mass{0}, SumOp{});
  const Mass goal = top_p_goal(top_p, total);
  Mass above = 0;  // of one that top-k keeps all above it are kept
  for (int i = 0; kept && i < s.listed; ++i) above += s.list[i] > z ? mass_of(s.list[i]) : 0;
  return kept && above < goal;
}

// Lists all scores of bins up to `bin`, and perhaps some just below. Every thread calls.
__device__ void list_scores(const SampleArguments& a, const Scores& scores, SampleShared& s,
                            int bin) {
  constexpr int kHeld = 8;  // vectors of four logits that a thread has a bit each for
  const int tid = static_cast<int>(threadIdx.x), lane = tid % 32;
  // No logit of these bins is below the edge: a bin more than enough covers the rounding of scores.
  const float reach = scores.temperature * (static_cast<float>(bin + 2) * (kRange / kBins));
  const float edge = bin + 1 < kBins ? scores.greatest - reach : -INFINITY;
  const auto take = [&](int at, int id) {
    if (at < kList) s.list[at] = scores(id), s.list_id[at] = id;
  };
  const int vectors = scores.cache != nullptr ? a.vocabulary / 4 : 0;
#pragma unroll 1
  for (int first = 0; first < vectors; first += kHeld * kThreads) {
    std::uint32_t mine = 0;
#pragma unroll 1
    for (int i = 0; i < kHeld; ++i) {
      const int at = first + i * kThreads + tid;
      if (at >= vectors) break;
      const float4 four = reinterpret_cast<const float4*>(scores.cache)[at];
      const std::uint32_t bits = (four.x >= edge ? 1u : 0u) | (four.y >= edge ? 2u : 0u) |
                                 (four.z >= edge ? 4u : 0u) | (four.w >= edge ? 8u : 0u);
      mine |= bits << (4 * i);
    }
    // A warp's share of the list is claimed at once.
    const int running = warp_running_sum(__popc(mine));
    int place = 0;
    if (lane == 31 && running > 0) place = atomicAdd(&s.listed, running);
    place = __shfl_sync(kFullWarp, place, 31) + running - __popc(mine);
#pragma unroll 1
    for (; mine != 0; mine &= mine - 1) {
      const int bit = __ffs(static_cast<int>(mine)) - 1;
      take(place++, 4 * (first + bit / 4 * kThreads + tid) + bit % 4);
    }
  }
#pragma unroll 4
  for (int id = 4 * vectors + tid; id < a.vocabulary; id += kThreads) {
    if (scores.logit(id) >= edge) take(atomicAdd(&s.listed, 1), id);
  }
}

// A bin that, with those before it, holds `goal` of the threads' own scores, at most one behind the
// first such; the last one where there are fewer. By five bits at a time: a lane counts those of
// the warp's scores whose bits are its number. Every thread calls; s.own_count is 0.
__device__ int find_own_bin(SampleShared& s, float z, int goal) {
  constexpr int kLeft = 1;  // bits that are not looked at
  static_assert(kBins == 1 << (kOwnDigits * kOwnDigitBits + kLeft));
  static_assert(1 << kOwnDigitBits == 32, "a lane has a value of a digit");
  const int lane = static_cast<int>(threadIdx.x) % 32, own = bin_of(z) >> kLeft;
  int found = 0;  // the digits so far
#pragma unroll 1
  for (int digit = 0; digit < kOwnDigits; ++digit) {
    const int shift = (kOwnDigits - 1 - digit) * kOwnDigitBits;
    unsigned same = __ballot_sync(kFullWarp, own >> shift >> kOwnDigitBits == found);
#pragma unroll
    for (int bit = 0; bit < kOwnDigitBits; ++bit) {
      const unsigned set = __ballot_sync(kFullWarp, (own >> shift >> bit & 1) != 0);
      same &= (lane >> bit & 1) != 0 ? set : ~set;
    }
    if (same != 0) atomicAdd(&s.own_count[digit][lane], __popc(same));
    __syncthreads();  // all warps' are counted
    const int count = s.own_count[digit][lane], running = warp_running_sum(count);
    const unsigned reached = __ballot_sync(kFullWarp, running >= goal);
    if (reached == 0) return kBins - 1;
    const int first = __ffs(static_cast<int>(reached)) - 1;
    goal -= __shfl_sync(kFullWarp, running - count, first);
    found = found << kOwnDigitBits | first;
  }
  return (found << kLeft) + (1 << kLeft) - 1;
}

// How many listed scores are above z.
__device__ int listed_above(const SampleShared& s, float z) {
  int above = 0;
#pragma unroll 4
  for (int i = 0; i < s.listed; i += 4) {  // behind the last there is −∞
    const float4 four = *reinterpret_cast<const float4*>(s.list + i);
    above +=
        (four.x > z ? 1 : 0) + (four.y > z ? 1 : 0) + (four.z > z ? 1 : 0) + (four.w > z ? 1 : 0);
  }
  return above;
}

// The draw by a top-k of few and any other filters, or −1 where too many scores would have to be
// listed. `own_greatest` is the greatest of the penalised logits that are the thread's and no
// other's, −∞ where there is none. The list is as begin_list leaves it. Every thread calls.
__device__ int draw_from_few(const SampleArguments& a, const Scores& scores, SampleShared& s,
                             const SamplingParams& params, std::uint32_t position,
                             float own_greatest) {
  const int tid = static_cast<int>(threadIdx.x);
  list_scores(a, scores, s, find_own_bin(s, scores.score(own_greatest), params.top_k));
  __syncthreads();  // the list is complete, in any order
  const int listed = s.listed;
  if (listed > kList) return -1;
  const float z = s.list[tid];
  bool kept = tid < listed && listed_above(s, z) < params.top_k;
  if (params.top_p < 1.0f) kept = passes_top_p(s, params.top_p, z, kept);
  float score = -INFINITY;
  int id = -1;
  if (kept && passes_min_p(params, z)) {
    id = s.list_id[tid];
    const Philox4 bits = sampling_bits(params.seed, position, static_cast<std::uint32_t>(id) / 4);
    const int word = id % 4;
    score = drawn_score(z, word < 2 ? (word == 0 ? bits.word[0] : bits.word[1])
                                    : (word == 2 ? bits.word[2] : bits.word[3]));
  }
  return block_argmax(s, score, id);
}

// What a thread has seen of the logits that it alone reads.
struct OwnLogits {
  float greatest = -INFINITY;
  bool broken = false;  // NaN or infinite

  __device__ void add(float logit) {
    broken |= !(fabsf(logit) <= FLT_MAX);
    greatest = fmaxf(greatest, logit);
  }
};

// Reads the logits, into the cache where there is one.
__device__ OwnLogits read_logits(const SampleArguments& a, float* cache) {
  constexpr int kDepth = 8;  // loads of 16 bytes in flight
  const int tid = static_cast<int>(threadIdx.x), vectors = a.vectors ? a.vocabulary / 4 : 0;
  OwnLogits own;
#pragma unroll 1
  for (int first = tid; first < vectors; first += kDepth * kThreads) {
    float4 four[kDepth];
#pragma unroll
    for (int i = 0; i < kDepth; ++i) {
      const int at = first + i * kThreads;
      if (at < vectors) four[i] = reinterpret_cast<const float4*>(a.logits)[at];
    }
#pragma unroll
    for (int i = 0; i < kDepth; ++i) {
      const int at = first + i * kThreads;
      if (at >= vectors) break;
      if (cache != nullptr) reinterpret_cast<float4*>(cache)[at] = four[i];
      own.add(four[i].x), own.add(four[i].y), own.add(four[i].z), own.add(four[i].w);
    }
  }
#pragma unroll 1
  for (int id = 4 * vectors + tid; id < a.vocabulary; id += kThreads) {
    const float logit = a.logits[id];
    if (cache != nullptr) cache[id] = logit;
    own.add(logit);
  }
  return own;
}

// Penalises the cached logits; returns the greatest of the thread's own. Every thread calls.
__device__ __noinline__ float penalise(const SampleArguments& a, const Scores& scores) {
  __syncthreads();  // all logits are in the cache
  float greatest = -INFINITY;
  for (int id = static_cast<int>(threadIdx.x); id < a.vocabulary; id += kThreads) {
    const float logit =
        scores.penalised(id, scores.cache != nullptr ? scores.cache[id] : a.logits[id]);
    if (scores.cache != nullptr) scores.cache[id] = logit;
    greatest = fmaxf(greatest, logit);
  }
  return greatest;
}

// The lowest id of the greatest penalised logit. Every thread calls.
__device__ __noinline__ int greedy(const SampleArguments& a, const Scores& scores,
                                   SampleShared& s) {
  int found = -1;
  for (int id = static_cast<int>(threadIdx.x); found < 0 && id < a.vocabulary; id += kThreads) {
    if (scores.logit(id) == scores.greatest) found = id;
  }
  return block_argmax(s, scores.greatest, found);
}

// An empty list. Every thread calls, before anything that synchronises the block.
__device__ void begin_list(SampleShared& s) {
  static_assert(kList == kThreads);
  const int tid = static_cast<int>(threadIdx.x);
  s.list[tid] = -INFINITY;
  if (tid == 0) s.listed = 0;
  if (tid < kOwnDigits * 32) s.own_count[tid / 32][tid % 32] = 0;
}

__global__ void __launch_bounds__(kThreads, 1) sample_kernel(const SampleArguments a) {
  extern __shared__ uint4 dynamic_shared[];
  SampleShared& s = *reinterpret_cast<SampleShared*>(dynamic_shared);
  begin_list(s);
  pdl_launch_dependents();
  pdl_wait();
  const SamplingParams params = *a.params;
  const int position = *a.position + a.advance;
  float* cache = a.cached ? reinterpret_cast<float*>(&s + 1) : nullptr;
  Scores scores{a, cache, params.temperature, params.repetition_penalty, 0.0f};

  OwnLogits own = read_logits(a, cache);
  if (params.repetition_penalty != 1.0f) own.greatest = penalise(a, scores);
  constexpr std::uint32_t kBroken = 0xffffffffu;  // above the key of every number
  const std::uint32_t key = block_max(s, 0, own.broken ? kBroken : order_key(own.greatest));
  scores.greatest = from_order_key(key);

  int id = 0;
  if (key != kBroken && params.temperature <= 0.0f) {
    id = greedy(a, scores, s);
  } else if (key != kBroken) {
    const auto at = static_cast<std::uint32_t>(position);
    id = -1;
    if (params.top_k > 0 && params.top_k <= kFew && params.top_k < a.vocabulary) {
      id = draw_from_few(a, scores, s, params, at, own.greatest);
    }
    if (id < 0) id = draw_from_all(a, scores, s, params, at);
  }
  if (threadIdx.x == 0) {
    int* sampled = a.sampled + 2 * (position % a.places);
    sampled[0] = id;
    sampled[1] = key == kBroken ? 1 : 0;
    a.next_ids[0] = id;
    a.seen[id] = 1;
    *a.position = position;
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
  a.places = static_cast<int>(call.sampled.size(0) / 2);
  const std::size_t cache =
      (static_cast<std::size_t>(call.logits.size(0)) + 3) / 4 * sizeof(float4);
  a.cached = sizeof(SampleShared) + cache <= context.arch().shared_bytes;
  a.vectors = is_vector_aligned(call.logits);
  launch(context, sample_kernel, 1, kThreads, sizeof(SampleShared) + (a.cached ? cache : 0), a);
}

}  // namespace engine::cuda
