// The CUDA backend, as the rest of the engine sees it: no CUDA header in sight.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "kernels/backend.h"

namespace engine {

// Throws Error{kDevice} with the reason where device `index` can't be used.
std::unique_ptr<Backend> make_cuda_backend(int index, const BackendOptions& options);
// Never throws; where there is no driver or no device, *problem says so and the list is empty.
std::vector<DeviceInfo> list_cuda_devices(std::string* problem);

}  // namespace engine
