// The CPU backend: OpenMP threads, instruction sets chosen at run time.
#pragma once

#include <memory>

#include "kernels/backend.h"

namespace engine {

std::unique_ptr<Backend> make_cpu_backend(const BackendOptions& options);
DeviceInfo cpu_device_info();

}  // namespace engine
