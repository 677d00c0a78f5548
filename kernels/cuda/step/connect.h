// How stages of a program find what earlier stages compute: pure functions of the addresses.
#pragma once

#include <cstdint>

#include "kernels/cuda/step/lower.h"

namespace engine::cuda {

// Reserves places for `elements` in the exchange; returns the first, a multiple of 8.
std::int32_t reserve_exchange(StepProgram* program, std::int64_t elements);

// Whether `stage` reads memory that a stage of the program writes.
bool reads_earlier_stage(const StepProgram& program, const StepStage& stage);

// Sets from where in the exchange `stage` reads x and residual, unless that is set already, and
// where the stages that compute them put them; what no stage writes is left to be read from where
// it lies. False where it would read a part of what a stage writes, or something that is not
// exchanged.
bool connect_inputs(StepProgram* program, StepStage* stage);

// Whether every read of what `stage` overwrites, by stages of the program that read it from where
// it lies, is over when a block computes `stage`: blocks are not in step.
bool keeps_order(const StepProgram& program, const StepStage& stage);

// Stages whose result the new `stage` overwrites no longer store it: an earlier store could come
// late.
void drop_overwritten(StepProgram* program, const StepStage& stage);

}  // namespace engine::cuda
