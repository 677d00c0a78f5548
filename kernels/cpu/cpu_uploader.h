// Reads the weights of a model into host memory with several threads.
#pragma once

#include <memory>

#include "kernels/backend.h"
#include "kernels/cpu/kernels.h"

namespace engine::cpu {

// `backend` gives the memory, `kernels` convert where the stored type differs from the format, and
// `threads` readers work at once. All must outlive the uploader.
std::unique_ptr<Uploader> make_uploader(Backend& backend, const Kernels& kernels, int threads);

}  // namespace engine::cpu
