// score_softmax: softmax over rows of scores in memory, after a score function.
//
//   out[b, h, i, j] = exp(y_j − max) ÷ Σ exp(y_j − max), y = y(x[b, h, i, j], h, position + i, j)
// Layout: x and out (B, H, Q, K), strided, rows dense. Who computes what: a warp has a row; lanes
// pass over it twice, first for the running maximum and sum, then to write. Limit: bytes, twice
// the scores read (the second time from L2) and once written.
#include "kernels/cuda/device/exp2.cuh"
#include "kernels/cuda/device/pdl.cuh"
#include "kernels/cuda/device/reduce.cuh"
#include "kernels/cuda/device/vec.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/launchers.h"

namespace engine::cuda {
namespace {

constexpr int kThreads = 256, kWarps = kThreads / 32;
constexpr float kLog2e = 1.4426950408889634f;

template <typename T>
struct SoftmaxArguments {
  T* out;      // (B, H, Q, K)
  const T* x;  // (B, H, Q, K)
  const int* position;
  std::int64_t out_b, out_h, out_i, x_b, x_h, x_i;
  std::int64_t count;  // rows in all
  int heads, rows, keys;
  ScoreRule rule;
};

template <typename T>
__global__ void __launch_bounds__(kThreads) score_softmax_kernel(const SoftmaxArguments<T> a) {
  const std::int64_t index =
      static_cast<std::int64_t>(blockIdx.x) * kWarps + static_cast<int>(threadIdx.x) / 32;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  pdl_launch_dependents();
  pdl_wait();
  if (index >= a.count) return;
  const std::int64_t b = index / a.rows / a.heads;
  const int h = static_cast<int>(index / a.rows % a.heads), i = static_cast<int>(index % a.rows);
  const T* x = a.x + b * a.x_b + h * a.x_h + i * a.x_i;
  T* out = a.out + b * a.out_b + h * a.out_h + i * a.out_i;
  const int q = (a.position != nullptr ? *a.position : 0) + i;
  const KeyInterval seen = visible_keys(a.rule, q, a.keys);
  const auto score = [&](int j) {
    return j >= seen.begin && j < seen.end ? score_value(a.rule, to_f32(x[j]), h, q - j) * kLog2e
                                           : -INFINITY;
  };
  float maximum = -INFINITY, sum = 0.0f;
  for (int j = lane; j < a.keys; j += 32) {
    const float y = score(j), greatest = fmaxf(maximum, y);
    if (greatest == -INFINITY) continue;
    sum = sum * exp2f(maximum - greatest) + exp2f(y - greatest);
    maximum = greatest;
  }
  const float greatest = warp_max(maximum);
  const float shift = greatest == -INFINITY ? 0.0f : greatest;
  const float total = warp_sum(sum * exp2f(maximum - shift));
  const float inverse = total > 0.0f ? 1.0f / total : 0.0f;
  for (int j = lane; j < a.keys; j += 32) {
    out[j] = from_f32<T>(exp2f(score(j) - shift) * inverse);
  }
}

}  // namespace

void score_softmax(CudaContext& context, const ScoreSoftmaxCall& call) {
  dispatch_float(call.x.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    SoftmaxArguments<T> a{};
    a.out = call.out.as<T>(), a.x = call.x.as<T>();
    a.position = call.position.as<int>();
    a.out_b = call.out.stride(0), a.out_h = call.out.stride(1), a.out_i = call.out.stride(2);
    a.x_b = call.x.stride(0), a.x_h = call.x.stride(1), a.x_i = call.x.stride(2);
    a.heads = static_cast<int>(call.x.size(1));
    a.rows = static_cast<int>(call.x.size(2)), a.keys = static_cast<int>(call.x.size(3));
    a.count = call.x.size(0) * call.x.size(1) * call.x.size(2);
    a.rule = call.rule();
    launch(context, score_softmax_kernel<T>, to_unsigned((a.count + kWarps - 1) / kWarps), kThreads,
           std::size_t{0}, a);
  });
}

}  // namespace engine::cuda
