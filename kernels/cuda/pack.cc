#include "kernels/cuda/pack.h"

#include <cuda_runtime_api.h>

#include <utility>

#include "kernels/core/check.h"
#include "kernels/core/workspace.h"

namespace engine::cuda {
namespace {

// The floating-point type that a plain format stores; nothing for the others.
bool plain_dtype(QuantFormat format, DType* dtype) {
  for (const DType candidate : {DType::kF32, DType::kF16, DType::kBF16}) {
    if (plain_format(candidate) != format) continue;
    *dtype = candidate;
    return true;
  }
  return false;
}

// One block: the rows, then (aligned) the scales, then the flag.
PackedWeight pack_int8(CudaContext& context, DeviceMemory& memory, const std::string& name,
                       const Tensor& source) {
  const std::int64_t rows = source.size(0), columns = source.size(1);
  const auto n = static_cast<std::size_t>(rows), k = static_cast<std::size_t>(columns);
  const auto aligned = [](std::size_t bytes) {
    return (bytes + Workspace::kAlignment - 1) / Workspace::kAlignment * Workspace::kAlignment;
  };
  const std::size_t scales_at = aligned(checked_mul(n, k, name.c_str()));
  const std::size_t flag_at = scales_at + aligned(n * sizeof(std::uint16_t));
  Buffer block = memory.allocate(flag_at + sizeof(std::uint32_t));
  auto* base = static_cast<std::byte*>(block.data());
  auto* flag = reinterpret_cast<std::uint32_t*>(base + flag_at);
  context.check_launch(cudaMemsetAsync(flag, 0, sizeof(*flag), context.stream()));
  quantise_int8(context, source, reinterpret_cast<std::int8_t*>(base),
                reinterpret_cast<std::uint16_t*>(base + scales_at), flag);
  std::uint32_t not_finite = 0;
  context.check_wait(cudaMemcpyAsync(&not_finite, flag, sizeof(not_finite), cudaMemcpyDeviceToHost,
                                     context.stream()));
  context.check_wait(cudaStreamSynchronize(context.stream()));
  ENGINE_CHECK(not_finite == 0, ErrorKind::kModel, name,
               ": holds NaN or infinity, which int8 can't store");
  PackedWeight packed;
  packed.weight = {.data = base,
                   .scales = base + scales_at,
                   .format = QuantFormat::kInt8,
                   .rows = rows,
                   .columns = columns,
                   .device = context.device()};
  packed.memory.push_back(std::move(block));
  return packed;
}

}  // namespace

PackedWeight pack(CudaContext& context, DeviceMemory& memory, const std::string& name,
                  Buffer source, DType dtype, std::int64_t rows, std::int64_t columns,
                  QuantFormat format) {
  context.require_not_recording("packing a weight");
  context.make_current();
  ENGINE_REQUIRE(is_float(dtype), "pack: ", name, " is of type ", dtype);
  const Tensor matrix = source.tensor(dtype, {rows, columns});
  DType stored = dtype;
  if (!plain_dtype(format, &stored)) {
    ENGINE_REQUIRE(format == QuantFormat::kInt8,
                   "pack: no CUDA kernel makes weights of this format");
    return pack_int8(context, memory, name, matrix);  // waits, so `source` may go
  }
  PackedWeight packed;
  packed.weight = {.data = matrix.data,
                   .scales = nullptr,
                   .format = format,
                   .rows = rows,
                   .columns = columns,
                   .device = context.device()};
  if (stored != dtype) {
    Buffer converted = memory.allocate(packed.weight.bytes());
    convert_elements(context, matrix, stored, converted.data());
    context.check_wait(cudaStreamSynchronize(context.stream()));  // before `source` goes
    packed.weight.data = converted.data();
    packed.memory.push_back(std::move(converted));
  } else {
    packed.memory.push_back(std::move(source));
  }
  return packed;
}

}  // namespace engine::cuda
