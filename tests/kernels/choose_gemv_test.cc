// The choice of the GEMV of one vector: pure host functions, tested without a GPU.
#include <doctest/doctest.h>

#include <algorithm>

#include "kernels/cuda/choose.h"

namespace engine::cuda {
namespace {

TEST_CASE("a vector's GEMV takes every multiprocessor, and blocks no larger than its rows") {
  const CudaArch arch;
  constexpr QuantFormat kInt8 = QuantFormat::kInt8;
  const VectorGemvPlan small =
      choose_vector_gemv(arch, {.rows = 1024, .columns = 4096, .weight = kInt8});
  CHECK(small.kernel == VectorGemvKernel::kStream);
  CHECK(small.blocks == 264);
  CHECK(small.threads == 128);
  CHECK(small.shared_bytes == 4096 * sizeof(float));
  CHECK(choose_vector_gemv(arch, {.rows = 16384, .columns = 16384, .weight = kInt8}).threads ==
        kVectorGemvThreads);
  CHECK(choose_vector_gemv(arch, {.rows = 3, .columns = 4096, .weight = kInt8}).blocks == 3);
  // A norm is the work of all threads, however few the rows are.
  CHECK(choose_vector_gemv(arch, {.rows = 1024, .columns = 4096, .norm = true}).threads ==
        kVectorGemvThreads);
  const auto kernel = [&](const VectorGemvProblem& problem) {
    return choose_vector_gemv(arch, problem).kernel;
  };
  CHECK(kernel({.rows = 3, .columns = 64, .aligned = false}) == VectorGemvKernel::kPlain);
  CHECK(kernel({.rows = 3, .columns = 40000}) == VectorGemvKernel::kPlain);
  CHECK(kernel({.rows = 330, .columns = 64, .slots = 33}) == VectorGemvKernel::kPlain);
  CHECK(choose_vector_gemv(arch, {.rows = 33, .columns = 40000}).blocks == 3);
}

TEST_CASE("few short rows have a warp each") {
  const CudaArch arch;
  const VectorGemvPlan square = choose_vector_gemv(arch, {.rows = 1024, .columns = 1024});
  CHECK(square.kernel == VectorGemvKernel::kDirect);
  CHECK(square.blocks == 128);
  CHECK(square.threads == 256);
  CHECK(square.vectors == 4);
  CHECK(square.shared_bytes == 0);
  CHECK_FALSE(choose_sm90_gemv(arch, {.rows = 1024, .columns = 1024}).serves);
  const auto vectors = [&](std::int64_t columns, QuantFormat weight) {
    const VectorGemvPlan plan =
        choose_vector_gemv(arch, {.rows = 7, .columns = columns, .weight = weight});
    return plan.kernel == VectorGemvKernel::kDirect ? plan.vectors : 0;
  };
  CHECK(vectors(8, QuantFormat::kBF16) == 1);
  CHECK(vectors(264, QuantFormat::kBF16) == 2);
  CHECK(vectors(520, QuantFormat::kBF16) == 4);
  CHECK(vectors(1024, QuantFormat::kInt8) == 2);
  CHECK(vectors(2048, QuantFormat::kInt8) == 4);
  CHECK(vectors(512, QuantFormat::kF32) == 4);
  const auto kernel = [&](const VectorGemvProblem& problem) {
    return choose_vector_gemv(arch, problem).kernel;
  };
  CHECK(kernel({.rows = 132 * 32, .columns = 1024}) == VectorGemvKernel::kDirect);
  CHECK(kernel({.rows = 132 * 32 + 1, .columns = 1024}) == VectorGemvKernel::kStream);
  CHECK(kernel({.rows = 7, .columns = 1024, .norm = true}) == VectorGemvKernel::kStream);
}

TEST_CASE("long rows have a block each, but for int8 on Hopper, where integer products serve") {
  CudaArch arch;
  const auto threads = [&](const VectorGemvProblem& problem) {
    const VectorGemvPlan plan = choose_vector_gemv(arch, problem);
    if (!plan.block_rows) return 0;
    CHECK(plan.kernel == VectorGemvKernel::kDirect);
    CHECK(plan.blocks == problem.rows);
    CHECK(plan.vectors == kVectorGemvDirectVectors);
    CHECK(plan.shared_bytes == 0);
    CHECK_FALSE(choose_sm90_gemv(arch, problem).serves);
    return plan.threads;
  };
  constexpr QuantFormat kInt8 = QuantFormat::kInt8;
  CHECK(threads({.rows = 7, .columns = 1024}) == 0);
  CHECK(threads({.rows = 7, .columns = 1032}) == 64);
  CHECK(threads({.rows = 4096, .columns = 4096}) == 128);
  CHECK(threads({.rows = 1 << 20, .columns = 4104}) == 160);
  CHECK(threads({.rows = 7, .columns = 16384}) == kVectorGemvRowThreads);
  CHECK(threads({.rows = 7, .columns = 16392}) == 0);
  CHECK(threads({.rows = 14, .columns = 8192, .slots = 2}) == 256);
  CHECK(threads({.rows = 14, .columns = 8200, .slots = 2}) == 0);
  CHECK(threads({.rows = 7, .columns = 4096, .x = DType::kF32, .weight = QuantFormat::kF32}) ==
        256);
  CHECK(threads({.rows = 7, .columns = 4096, .aligned = false}) == 0);
  CHECK(threads({.rows = 7, .columns = 4096, .norm = true}) == 0);
  CHECK(threads({.rows = 7, .columns = 4096, .weight = kInt8}) == 0);
  CHECK(threads({.rows = 7, .columns = 4096, .x = DType::kF32, .weight = kInt8}) == 64);
  arch.path = CudaPath::kPortable;
  CHECK(threads({.rows = 7, .columns = 4096, .weight = kInt8}) == 64);
  CHECK(threads({.rows = 7, .columns = 4096}) == 128);
  CHECK(threads({.rows = 14, .columns = 16384, .slots = 2}) == kVectorGemvRowThreads);
}

TEST_CASE("a vector's GEMV on Hopper cuts rows into slices, and its ring fits a multiprocessor") {
  const CudaArch arch;
  // int8 weights, or weights of x's type behind a norm.
  const auto plan = [&](std::int64_t size, QuantFormat weight) {
    const bool norm = weight != QuantFormat::kInt8;
    const Sm90GemvPlan p =
        choose_sm90_gemv(arch, {.rows = size, .columns = size, .weight = weight, .norm = norm});
    CHECK(p.serves);
    CHECK(p.blocks == 132);
    CHECK(p.slices * p.row_groups <= kSm90GemvWarps);
    CHECK(p.shared_bytes + 1024 <= arch.shared_bytes);
    return p;
  };
  const Sm90GemvPlan few =
      choose_sm90_gemv(arch, {.rows = 512, .columns = 2064, .weight = QuantFormat::kInt8});
  CHECK(few.serves);
  CHECK(few.slices == 3);
  CHECK(few.row_groups == 4);  // as many as a block has rows
  CHECK(few.stages == 1);
  const Sm90GemvPlan normed = choose_sm90_gemv(arch, {.rows = 1024, .columns = 2000, .norm = true});
  CHECK(normed.serves);
  CHECK(normed.slices == 2);
  CHECK(normed.row_groups == 8);
  CHECK(normed.stages == 1);
  const Sm90GemvPlan middle = plan(4096, QuantFormat::kInt8);
  CHECK(middle.slices == 4);
  CHECK(middle.row_groups == 4);
  CHECK(middle.total_stages == 1024);
  CHECK(middle.stages == 4);
  CHECK(plan(16384, QuantFormat::kInt8).stages == 4);
  CHECK(plan(16384, QuantFormat::kBF16).stages == 4);
  CHECK(plan(5000, QuantFormat::kBF16).row_groups == 3);
  CHECK(plan(5000, QuantFormat::kBF16).total_stages == 1667);  // the last of two rows

  const auto serves = [&](VectorGemvProblem problem) {
    problem.rows = std::max<std::int64_t>(problem.rows, 4096);
    return choose_sm90_gemv(arch, problem).serves;
  };
  constexpr QuantFormat kInt8 = QuantFormat::kInt8;
  CHECK(serves({.columns = 4096, .weight = kInt8}));
  CHECK(serves({.columns = 14336, .norm = true}));
  CHECK(serves({.columns = 16384, .slots = 2}));
  CHECK_FALSE(serves({.columns = 4096}));
  CHECK_FALSE(serves({.columns = 14336, .weight = kInt8, .norm = true}));
  CHECK_FALSE(serves({.columns = 512, .weight = kInt8}));
  CHECK_FALSE(serves({.columns = 16400, .weight = kInt8}));
  CHECK_FALSE(serves({.columns = 4096, .weight = kInt8, .aligned = false}));
  CHECK_FALSE(serves({.rows = 1 << 20, .columns = 4096, .weight = kInt8}));
  CHECK_FALSE(serves({.columns = 4096, .x = DType::kF32, .weight = kInt8}));
  CudaArch portable = arch;
  portable.path = CudaPath::kPortable;
  CHECK_FALSE(choose_sm90_gemv(portable, {.rows = 4096, .columns = 4096, .weight = kInt8}).serves);
}

}  // namespace
}  // namespace engine::cuda
