// The ops that row_product.h serves: linears of int8 weights, and those of a mixture.
#include "kernels/cuda/row_product.h"

#include "kernels/core/check.h"
#include "kernels/cuda/launchers.h"

namespace engine::cuda {
namespace {

std::int32_t to_int32(std::int64_t value) {
  ENGINE_REQUIRE(value >= 0 && value <= 0x7fffffff, "a product of ", value, " rows");
  return static_cast<std::int32_t>(value);
}

void run(CudaContext& context, const RowProduct& product, const RowPlan& plan, DType x,
         QuantFormat weight, bool silu) {
  ENGINE_REQUIRE(!silu || plan.kernel == RowKernel::kHopper, "no such product ends in silu_mul");
  switch (plan.kernel) {
    case RowKernel::kGemv:
      return row_gemv(context, product, x, weight, plan.token_tile);
    case RowKernel::kFew:
      return row_few(context, product, x, weight);
    case RowKernel::kTensorCores:
      return row_product_mma(context, product, x, weight);
    case RowKernel::kPlain:
      return row_product_plain(context, product, x, weight);
    case RowKernel::kHopper:
      return x == DType::kF16 ? sm90_row_product_f16(context, product, plan.row_tile, silu)
                              : sm90_row_product_bf16(context, product, plan.row_tile, silu);
  }
}

}  // namespace

RowProduct row_product_of(const Tensor& x, const Weight& weight, const Tensor& out) {
  RowProduct product;
  product.x = x.data;
  product.weight = weight.data;
  product.scales = static_cast<const std::uint16_t*>(weight.scales);
  product.out = out.data;
  product.x_stride = x.stride(0);
  product.out_stride = out.stride(0);
  product.outputs = weight.rows;
  product.columns = weight.columns;
  product.aligned = is_vector_aligned(x) && is_vector_aligned(weight);
  product.f32_out = out.dtype == DType::kF32;
  return product;
}

RowPlan linear_int8_plan(const CudaContext& context, const Tensor& x, const Weight& weight) {
  return choose_row_product(context.arch(),
                            {.tokens = x.size(0),
                             .x = x.dtype,
                             .weight = weight.format,
                             .outputs = weight.rows,
                             .columns = weight.columns,
                             .aligned = is_vector_aligned(x) && is_vector_aligned(weight)});
}

void linear_int8(CudaContext& context, const LinearCall& call, bool silu) {
  const RowPlan plan = linear_int8_plan(context, call.x, call.weight);
  RowProduct product = row_product_of(call.x, call.weight, call.out);
  product.rows = to_int32(call.x.size(0));
  product.tiles = to_int32(plan.tiles);
  product.row_tile = plan.row_tile;
  if (call.residual) {
    product.residual = call.residual.data;
    product.residual_stride = call.residual.stride(0);
  }
  run(context, product, plan, call.x.dtype, call.weight.format, silu);
}

RowPlan moe_linear_plan(const CudaContext& context, const MoeLinearCall& call) {
  return choose_row_product(
      context.arch(), {.tokens = call.x.size(0),
                       .slots = call.experts.size(1),
                       .experts = call.count,
                       .x = call.x.dtype,
                       .weight = call.weight.format,
                       .outputs = call.weight.rows / call.count,
                       .columns = call.weight.columns,
                       .aligned = is_vector_aligned(call.x) && is_vector_aligned(call.weight)});
}

void moe_linear(CudaContext& context, const MoeLinearCall& call, void* scratch, bool silu) {
  const RowPlan plan = moe_linear_plan(context, call);
  RowProduct product = row_product_of(call.x, call.weight, call.out);
  product.x_slot_stride = call.x.size(1) == 1 ? 0 : call.x.stride(1);
  product.out_slot_stride = call.out.stride(1);
  product.outputs = call.weight.rows / call.count;
  product.rows = to_int32(call.experts.numel());
  product.slots = to_int32(call.experts.size(1));
  product.experts = call.experts.as<const std::int32_t>();
  product.experts_stride = call.experts.stride(0);
  product.count = to_int32(call.count);
  product.tiles = to_int32(plan.tiles);
  product.row_tile = plan.row_tile;
  if (plan.scratch_bytes > 0) {
    auto* order = static_cast<std::int32_t*>(scratch);
    auto* groups = reinterpret_cast<RowGroup*>(order + product.rows);
    product.order = order;
    product.groups = groups;
    moe_sort(context, product, order, groups);
  }
  run(context, product, plan, call.x.dtype, call.weight.format, silu);
}

}  // namespace engine::cuda
