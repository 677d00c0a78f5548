// The choice of the vector kernels at run time.
#pragma once

#include "kernels/cpu/kernels.h"

namespace engine::cpu {

// The widest instruction set that this machine has, or the one that the environment variable
// ENGINE_ISA names: "portable", "avx2" or "avx512". Throws Error{kUsage} where that is another word
// or a set that the machine lacks.
const Kernels& choose_kernels();

}  // namespace engine::cpu
