// From ops of one token to stages of the step kernel: pure functions of the architecture and the
// call, without CUDA.
#pragma once

#include <cstddef>
#include <vector>

#include "kernels/cuda/choose.h"
#include "kernels/cuda/step/program.h"
#include "kernels/ops.h"

namespace engine::cuda {

// Stages in order, and what a launch of them needs.
struct StepProgram {
  std::vector<StepStage> stages;
  DType dtype = DType::kBF16;  // of the elements: f16 or bf16
  std::size_t x_bytes = 0;     // shared memory for x
  int blocks = 0;              // of the launch
  int tiles = 0;               // dealt out so far
  StepPosition at;
  std::size_t exchange = 0;  // elements of the exchange, each stage's from a multiple of 8 on
};

// Appends the stages of `call`, and returns true, where the step kernel serves it beside what is in
// the program: one token of 16-bit activations, weights of their type or int8, rows that are
// multiples of 16 bytes and start on them, on Hopper; and where what it reads of earlier stages is
// the whole of what one of them computes. Else the program stays as it was. Of
// `scratch` a feed-forward takes its inner activations, (F), or (S, F) in a mixture.
bool lower_call(const CudaArch& arch, const EmbedCall& call, StepProgram* program);
bool lower_call(const CudaArch& arch, const RmsNormCall& call, StepProgram* program);
bool lower_call(const CudaArch& arch, const LinearCall& call, StepProgram* program);
bool lower_call(const CudaArch& arch, const AttentionCall& call, StepProgram* program);
bool lower_call(const CudaArch& arch, const AttentionInCall& call, StepProgram* program);
bool lower_call(const CudaArch& arch, const AttentionOutCall& call, StepProgram* program);
bool lower_call(const CudaArch& arch, const FeedForwardCall& call, Workspace scratch,
                StepProgram* program);
bool lower_call(const CudaArch& arch, const MoeFeedForwardCall& call, Workspace scratch,
                StepProgram* program);
bool lower_call(const CudaArch& arch, const Call& call, Workspace scratch, StepProgram* program);

// Slots of the ring that fit beside x and `static_bytes` of shared memory.
int step_slots(const CudaArch& arch, std::size_t x_bytes, std::size_t static_bytes);

// Shared memory that the step kernel takes beside the ring and x, at the most.
inline constexpr std::size_t kStepStaticBytes = 13312;

}  // namespace engine::cuda
