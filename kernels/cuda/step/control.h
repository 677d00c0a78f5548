// What a launch of the step kernel is given.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/cuda/step/program.h"

namespace engine::cuda {

// Memory of the device that outlives launches, zeros at first. Every launch leaves it ready for the
// next: it uses one bank of the exchange and clears the other.
struct StepControl {
  std::uint32_t parity;                // which bank the next launch uses
  std::uint32_t exits;                 // blocks of this launch that are done
  std::uint32_t used[2];               // elements of each bank that a launch may have written
  std::uint32_t units[kStepMaxUnits];  // splits of each unit of attention that are done
};

// The time line of a launch, when one is wanted: of each stage and block, clock readings of its
// multiprocessor when it began to wait, could read x, had x ready, and was done.
inline constexpr int kStepStamps = 4;

// Stages that a launch can bring along, for ops outside recorded programs.
inline constexpr int kStepInlineStages = 3;

struct StepLaunch {
  const StepStage* program = nullptr;  // (count) on the device; null: inline_stages
  std::int32_t count = 0;
  std::int32_t slots = 0;    // of the ring
  std::int32_t x_bytes = 0;  // shared memory for x, and for what attention merges
  StepPosition at;
  StepControl* control = nullptr;
  std::uint16_t* exchange = nullptr;  // two banks
  std::int32_t exchange_bank = 0;     // elements of a bank
  std::int32_t exchange_used = 0;     // of them, by this program; a multiple of 8
  float* partials = nullptr;          // records of attention, kStepHeadTile a block
  long long* timeline = nullptr;      // (count, blocks, kStepStamps), or null
  StepStage inline_stages[kStepInlineStages];
};

}  // namespace engine::cuda
