// The first half of feed_forward for one token: norm, gate, up and SiLU in one kernel. The second
// half, down and residual, is a plain linear.
//
// Limit: the bytes of the joined gate/up weight. A unit of the GEMV is a gate row and its up row.
#include "kernels/cuda/normed_gemv.cuh"

namespace engine::cuda {
namespace {

// A unit is row j of gate and row j of up.
template <typename T, bool kVector>
struct GateUpRows : NormedRows<T, kVector> {
  T* inner;  // (F)

  __device__ int weight_row(int unit, int i) const { return unit + i * this->units; }
  __device__ void finish(int first_unit, int rows, const float* sums) const {
    for (int u = static_cast<int>(threadIdx.x); u < rows / 2; u += kGemvThreads) {
      const float gate = round_to<T>(sums[2 * u]), up = round_to<T>(sums[2 * u + 1]);
      inner[first_unit + u] =
          from_f32<T>(gate / (1.0f + (sizeof(T) == 4 ? expf(-gate) : __expf(-gate))) * up);
    }
  }
};

}  // namespace

bool fused_gemv_fits(const CudaContext& context, const Tensor& x, const Weight& weight) {
  const int blocks = gemv_blocks(context.arch(), weight.rows / 2);
  const std::int64_t rows = (weight.rows / 2 + blocks - 1) / blocks * 2;
  return x.size(0) == 1 && weight.format == plain_format(x.dtype) &&
         gemv_shared_bytes(weight.columns, x.dtype, 1, rows, true) <= context.arch().shared_bytes;
}

void gate_up_gemv(CudaContext& context, const FeedForwardCall& call, const Tensor& inner) {
  dispatch_rows(call.x, call.norm, call.gate_up, [&](auto tag, auto vector) {
    using T = typename decltype(tag)::type;
    GateUpRows<T, vector.value> rows;
    static_cast<NormedRows<T, vector.value>&>(rows) =
        normed_rows<T, vector.value>(call.gate_up, call.x, call.norm, call.eps);
    rows.inner = inner.as<T>();
    launch_rows<T, vector.value>(context, rows, call.x.dtype);
  });
}

}  // namespace engine::cuda
