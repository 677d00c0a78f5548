// Which device and which compute type a run uses.
#pragma once

#include <string>

#include "kernels/backend.h"
#include "kernels/core/dtype.h"

namespace engine {

struct DeviceChoice {
  Device device;
  std::string reason;  // for people: why this one
};

// "cpu", "cuda", "cuda:N", or "auto": the first usable CUDA device, else the CPU. "cpu" never
// touches CUDA. Throws Error{kUsage} for another word and Error{kDevice} with the reason where the
// device asked for can't be used.
DeviceChoice choose_device(const std::string& flag);

// "f32", "f16", "bf16", or "auto": what the checkpoint stores, but bf16 on CUDA for f32
// checkpoints.
DType choose_dtype(const std::string& flag, DType stored, Device device);

}  // namespace engine
