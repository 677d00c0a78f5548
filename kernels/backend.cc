// The choice of a backend: the only place that knows whether CUDA is built in.
#include "kernels/backend.h"

#include "kernels/core/check.h"
#include "kernels/cpu/cpu_backend.h"
#include "kernels/recorder.h"
#if ENGINE_CUDA
#include "kernels/cuda/cuda_backend.h"
#endif

namespace engine {

std::size_t Backend::workspace_bytes(const std::function<void(Ops&, Workspace)>& step) {
  std::size_t peak = 0;
  DryRun dry_run(ops());
  step(dry_run, Workspace::dry_run(device(), &peak));
  return peak;
}

std::unique_ptr<Backend> make_backend(Device device, const BackendOptions& options) {
  if (device.kind == DeviceKind::kCpu) return make_cpu_backend(options);
#if ENGINE_CUDA
  return make_cuda_backend(device.index, options);
#else
  fail(ErrorKind::kDevice, to_string(device), ": this build has no CUDA (ENGINE_CUDA=OFF)");
#endif
}

std::vector<DeviceInfo> list_devices(std::string* cuda_problem) {
  std::vector<DeviceInfo> devices = {cpu_device_info()};
#if ENGINE_CUDA
  for (DeviceInfo& info : list_cuda_devices(cuda_problem)) devices.push_back(std::move(info));
#else
  *cuda_problem = "this build has no CUDA (ENGINE_CUDA=OFF)";
#endif
  return devices;
}

}  // namespace engine
