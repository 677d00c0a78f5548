#include "kernels/cuda/matmul.h"

#include <array>
#include <cstdint>
#include <cstdlib>

#include "kernels/core/check.h"
#include "kernels/cuda/graph.h"
#include "kernels/cuda/switches.h"

namespace engine::cuda {
namespace {

constexpr int kCandidates = 16;

void check_blas(cublasStatus_t status, const char* what) {
  ENGINE_CHECK(status == CUBLAS_STATUS_SUCCESS, ErrorKind::kDevice, "cuBLASLt: ", what,
               " failed: ", cublasLtGetStatusString(status));
}

cudaDataType_t data_type(DType dtype) {
  switch (dtype) {
    case DType::kF16:
      return CUDA_R_16F;
    case DType::kBF16:
      return CUDA_R_16BF;
    default:
      return CUDA_R_32F;
  }
}

// The largest power of two up to 256 that divides the address.
std::uint32_t alignment_of(const void* address) {
  const auto bits = reinterpret_cast<std::uintptr_t>(address) | 256u;
  return static_cast<std::uint32_t>(bits & (~bits + 1));
}

}  // namespace

// What the choice of an algorithm depends on.
struct Matmul::Problem {
  std::int64_t tokens, rows, columns, x_stride, out_stride, residual_stride;
  DType x, out;
  bool residual, bias, gelu;
  std::uint32_t x_alignment, weight_alignment, out_alignment, residual_alignment, bias_alignment;

  friend bool operator==(const Problem&, const Problem&) = default;
};

struct Matmul::Product {
  Problem problem;
  bool usable = false;
  cublasLtMatmulDesc_t operation = nullptr;
  cublasLtMatrixLayout_t weight = nullptr, x = nullptr, residual = nullptr, out = nullptr;
  cublasLtMatmulAlgo_t algorithm{};
  std::size_t workspace_bytes = 0;  // given to the algorithm

  explicit Product(const Problem& p) : problem(p) {}
  ~Product() {
    cublasLtMatrixLayoutDestroy(out);
    cublasLtMatrixLayoutDestroy(residual);
    cublasLtMatrixLayoutDestroy(x);
    cublasLtMatrixLayoutDestroy(weight);
    cublasLtMatmulDescDestroy(operation);
  }
  Product(const Product&) = delete;
  Product& operator=(const Product&) = delete;
};

Matmul::Matmul(CudaContext& context)
    : context_(context), enabled_(parse_cublaslt(std::getenv("ENGINE_CUBLASLT"))) {
  check_blas(cublasLtCreate(&handle_), "creating a handle");
  constexpr float kScalars[2] = {1.0f, 0.0f};
  cudaError_t status =
      cudaMalloc(reinterpret_cast<void**>(&workspace_), kWorkspaceBytes + sizeof(kScalars));
  if (status == cudaSuccess) {
    status = cudaMemcpy(workspace_ + kWorkspaceBytes, kScalars, sizeof(kScalars),
                        cudaMemcpyHostToDevice);
  }
  if (status == cudaSuccess) status = cudaStreamCreateWithFlags(&trial_, cudaStreamNonBlocking);
  if (status != cudaSuccess) {
    cudaFree(workspace_);
    cublasLtDestroy(handle_);
    check_cuda(status, "reserving the workspace of cuBLASLt");
  }
}

Matmul::~Matmul() {
  products_.clear();
  cudaStreamDestroy(trial_);
  cudaFree(workspace_);
  cublasLtDestroy(handle_);
}

// cuBLASLt is column-major, so it sees every matrix transposed: outᵀ (N, T) = W (N, K) · xᵀ (K, T),
// with W read through a transpose of its (K, N) view.
const Matmul::Product& Matmul::prepare(const Problem& problem, const LinearCall& call) {
  for (const auto& product : products_) {
    if (product->problem == problem) return *product;
  }
  auto made = std::make_unique<Product>(problem);
  Product& p = *made;
  check_blas(cublasLtMatmulDescCreate(&p.operation, CUBLAS_COMPUTE_32F, CUDA_R_32F),
             "describing a product");
  const cublasOperation_t transpose = CUBLAS_OP_T;
  check_blas(cublasLtMatmulDescSetAttribute(p.operation, CUBLASLT_MATMUL_DESC_TRANSA, &transpose,
                                            sizeof(transpose)),
             "describing a product");
  // The scalars lie on the device: told on the host that beta is 1 and the residual is the output
  // itself, cuBLASLt rounds the product to the output's type before it adds.
  const cublasLtPointerMode_t scalars = CUBLASLT_POINTER_MODE_DEVICE;
  check_blas(cublasLtMatmulDescSetAttribute(p.operation, CUBLASLT_MATMUL_DESC_POINTER_MODE,
                                            &scalars, sizeof(scalars)),
             "describing a product");
  if (problem.bias || problem.gelu) {
    const cublasLtEpilogue_t epilogue = !problem.gelu  ? CUBLASLT_EPILOGUE_BIAS
                                        : problem.bias ? CUBLASLT_EPILOGUE_GELU_BIAS
                                                       : CUBLASLT_EPILOGUE_GELU;
    check_blas(cublasLtMatmulDescSetAttribute(p.operation, CUBLASLT_MATMUL_DESC_EPILOGUE, &epilogue,
                                              sizeof(epilogue)),
               "describing a product");
    set_bias(p, call);
  }
  const auto layout = [](cublasLtMatrixLayout_t* to, DType dtype, std::int64_t rows,
                         std::int64_t columns, std::int64_t stride) {
    check_blas(cublasLtMatrixLayoutCreate(to, data_type(dtype), static_cast<std::uint64_t>(rows),
                                          static_cast<std::uint64_t>(columns), stride),
               "describing a matrix");
  };
  layout(&p.weight, problem.x, problem.columns, problem.rows, problem.columns);
  layout(&p.x, problem.x, problem.columns, problem.tokens, problem.x_stride);
  layout(&p.out, problem.out, problem.rows, problem.tokens, problem.out_stride);
  layout(&p.residual, problem.out, problem.rows, problem.tokens, problem.residual_stride);

  // For many tiles, every algorithm that is given a workspace hands the tiles out by a counter in
  // it, cleared by a memset; given none, the same algorithms have a fixed schedule.
  choose_algorithm(p, call, kWorkspaceBytes);
  if (!p.usable) choose_algorithm(p, call, 0);
  products_.push_back(std::move(made));
  return *products_.back();
}

// The bias's address is no part of the problem: it is set anew for every call.
void Matmul::set_bias(const Product& p, const LinearCall& call) {
  if (!p.problem.bias) return;
  const void* bias = call.bias.data;
  check_blas(cublasLtMatmulDescSetAttribute(p.operation, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &bias,
                                            sizeof(bias)),
             "setting a bias");
}

void Matmul::choose_algorithm(Product& p, const LinearCall& call, std::size_t workspace_bytes) {
  const Problem& problem = p.problem;
  cublasLtMatmulPreference_t preference = nullptr;
  check_blas(cublasLtMatmulPreferenceCreate(&preference), "stating preferences");
  const auto prefer = [&](cublasLtMatmulPreferenceAttributes_t attribute, auto value) {
    check_blas(cublasLtMatmulPreferenceSetAttribute(preference, attribute, &value, sizeof(value)),
               "stating preferences");
  };
  prefer(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, std::uint64_t{workspace_bytes});
  // Partial sums of a split K are kept in fp32 and added in a fixed order.
  prefer(CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK,
         std::uint32_t{CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE});
  prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, problem.weight_alignment);
  prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, problem.x_alignment);
  prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, problem.residual_alignment);
  prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, problem.out_alignment);
  std::array<cublasLtMatmulHeuristicResult_t, kCandidates> results{};
  int found = 0;
  const cublasStatus_t status =
      cublasLtMatmulAlgoGetHeuristic(handle_, p.operation, p.weight, p.x, p.residual, p.out,
                                     preference, kCandidates, results.data(), &found);
  cublasLtMatmulPreferenceDestroy(preference);
  for (int i = 0; status == CUBLAS_STATUS_SUCCESS && i < found && !p.usable; ++i) {
    const cublasLtMatmulHeuristicResult_t& result = results[static_cast<std::size_t>(i)];
    if (result.state != CUBLAS_STATUS_SUCCESS) continue;
    p.algorithm = result.algo;
    p.workspace_bytes = workspace_bytes;
    p.usable = issues_kernels_only(p, call);
  }
}

cublasStatus_t Matmul::issue(const Product& product, const LinearCall& call, cudaStream_t stream) {
  set_bias(product, call);
  const std::byte* one = workspace_ + kWorkspaceBytes;
  const std::byte* zero = one + sizeof(float);
  const void* residual = call.residual ? call.residual.data : call.out.data;
  return cublasLtMatmul(handle_, product.operation, one, call.weight.data, product.weight,
                        call.x.data, product.x, call.residual ? one : zero, residual,
                        product.residual, call.out.data, product.out, &product.algorithm,
                        workspace_, product.workspace_bytes, stream);
}

bool Matmul::issues_kernels_only(const Product& product, const LinearCall& call) {
  check_cuda(cudaStreamBeginCapture(trial_, cudaStreamCaptureModeRelaxed), "beginning a capture");
  const cublasStatus_t status = issue(product, call, trial_);
  CapturedGraph graph;
  const cudaError_t ended = cudaStreamEndCapture(trial_, &graph.handle);
  static_cast<void>(cudaGetLastError());
  return status == CUBLAS_STATUS_SUCCESS && ended == cudaSuccess && graph.holds_kernels_only();
}

bool Matmul::linear(const LinearCall& call, bool gelu) {
  if (!enabled_) return false;
  const bool single = call.x.size(0) == 1;  // strides of a single row mean nothing
  const Tensor& residual = call.residual ? call.residual : call.out;
  const Problem problem{.tokens = call.x.size(0),
                        .rows = call.weight.rows,
                        .columns = call.weight.columns,
                        .x_stride = single ? call.weight.columns : call.x.stride(0),
                        .out_stride = single ? call.weight.rows : call.out.stride(0),
                        .residual_stride = single ? call.weight.rows : residual.stride(0),
                        .x = call.x.dtype,
                        .out = call.out.dtype,
                        .residual = static_cast<bool>(call.residual),
                        .bias = static_cast<bool>(call.bias),
                        .gelu = gelu,
                        .x_alignment = alignment_of(call.x.data),
                        .weight_alignment = alignment_of(call.weight.data),
                        .out_alignment = alignment_of(call.out.data),
                        .residual_alignment = alignment_of(residual.data),
                        .bias_alignment = alignment_of(call.bias.data)};
  const Product& product = prepare(problem, call);
  if (!product.usable) return false;
  check_blas(issue(product, call, context_.stream()), context_.last_op());
  return true;
}

}  // namespace engine::cuda
