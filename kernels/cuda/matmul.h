// Large matrix products through cuBLASLt.
//
// Owns the handle, the workspace and the products prepared so far, one per problem. The algorithm
// is the first that cuBLASLt's heuristics name for the problem: no timing, so a problem is always
// served by the same one. Used by one thread at a time.
#pragma once

#include <cublasLt.h>

#include <memory>
#include <vector>

#include "kernels/cuda/context.h"
#include "kernels/ops.h"

namespace engine::cuda {

class Matmul {
 public:
  explicit Matmul(CudaContext& context);
  ~Matmul();
  Matmul(const Matmul&) = delete;
  Matmul& operator=(const Matmul&) = delete;

  // Whether products go to cuBLASLt at all.
  bool enabled() const { return enabled_; }
  // linear(call) where x and the weight are of one type; with `gelu` what is stored is its GELU (by
  // tanh). False, with nothing issued, where cuBLASLt has no algorithm for it or is not to be used.
  bool linear(const LinearCall& call, bool gelu = false);

 private:
  struct Product;
  struct Problem;
  // The prepared product of the problem; its `usable` is false where there is none.
  const Product& prepare(const Problem& problem, const LinearCall& call);
  // Sets the first algorithm within `workspace_bytes` that issues kernels alone.
  void choose_algorithm(Product& product, const LinearCall& call, std::size_t workspace_bytes);
  static void set_bias(const Product& product, const LinearCall& call);
  // Issues the product on `stream`.
  cublasStatus_t issue(const Product& product, const LinearCall& call, cudaStream_t stream);
  // Whether the product's algorithm issues kernels alone, seen by capturing it.
  bool issues_kernels_only(const Product& product, const LinearCall& call);

  static constexpr std::size_t kWorkspaceBytes = std::size_t{32} << 20;

  CudaContext& context_;
  const bool enabled_;  // by ENGINE_CUBLASLT
  cublasLtHandle_t handle_ = nullptr;
  std::byte* workspace_ = nullptr;  // kWorkspaceBytes, then the scalars 1 and 0
  cudaStream_t trial_ = nullptr;    // where algorithms are captured, never run
  std::vector<std::unique_ptr<Product>> products_;
};

}  // namespace engine::cuda
