// sm90_row_product.cuh for x of bf16.
#include "kernels/cuda/sm90_row_product.cuh"

namespace engine::cuda {

void sm90_row_product_bf16(CudaContext& context, const RowProduct& product, int row_tile,
                           bool silu) {
  if (silu) {
    sm90::pick_rows<__nv_bfloat16, std::int8_t, true>(context, product, row_tile);
  } else {
    sm90::pick_rows<__nv_bfloat16, std::int8_t, false>(context, product, row_tile);
  }
}

}  // namespace engine::cuda
