// Measure on the CPU.
#pragma once

#include <memory>

#include "kernels/backend.h"
#include "kernels/cpu/context.h"
#include "kernels/measure.h"

namespace engine::cpu {

// Both must outlive what is made.
std::unique_ptr<Measure> make_measure(Backend& backend, const Context& context);

}  // namespace engine::cpu
