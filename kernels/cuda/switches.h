// Switches of the CUDA backend that the environment sets, besides ENGINE_CUDA_PATH.
#pragma once

namespace engine::cuda {

// The value of ENGINE_CUBLASLT: whether products of many tokens go to cuBLASLt. null, "" and "on",
// or "off": the engine's own kernel has them, for tools that break down on cuBLASLt's. Throws
// Error{kUsage} for anything else.
bool parse_cublaslt(const char* value);

}  // namespace engine::cuda
