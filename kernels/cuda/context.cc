#include "kernels/cuda/context.h"

#include <cstdlib>

#include "kernels/core/check.h"
#include "kernels/cuda/probe.h"

namespace engine::cuda {
namespace {

std::string version_text(int version) { return concat(version / 1000, ".", version % 1000 / 10); }

std::string describe(cudaError_t status) {
  return concat(cudaGetErrorString(status), " (", cudaGetErrorName(status), ")");
}

int attribute(cudaDeviceAttr attr, int index) {
  int value = 0;
  check_cuda(cudaDeviceGetAttribute(&value, attr, index), "reading a device attribute");
  return value;
}

}  // namespace

void check_cuda(cudaError_t status, const char* what) {
  if (status == cudaSuccess) return;
  static_cast<void>(cudaGetLastError());  // an error that is reported here must not show up later
  fail(ErrorKind::kDevice, "CUDA: ", what, " failed: ", describe(status));
}

std::string cuda_problem(int* count) {
  *count = 0;
  int driver = 0;
  if (cudaDriverGetVersion(&driver) != cudaSuccess || driver == 0) {
    return "no CUDA driver is installed";
  }
  const cudaError_t status = cudaGetDeviceCount(count);
  if (status == cudaSuccess && *count > 0) return "";
  static_cast<void>(cudaGetLastError());
  *count = 0;
  if (status == cudaSuccess || status == cudaErrorNoDevice) return "no CUDA device was found";
  if (status == cudaErrorInsufficientDriver) {
    return concat("the driver is too old: it supports CUDA ", version_text(driver),
                  ", this build needs ", version_text(CUDART_VERSION));
  }
  return concat("CUDA can't be initialised: ", describe(status));
}

std::string cuda_device_problem(int index) {
  int major = 0, minor = 0;
  cudaError_t status = cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, index);
  if (status == cudaSuccess) {
    status = cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, index);
  }
  if (status == cudaSuccess) status = cudaSetDevice(index);
  if (status != cudaSuccess) {
    static_cast<void>(cudaGetLastError());
    return concat("the device can't be used: ", describe(status));
  }
  if (const cudaError_t image = probe_kernel_image(); image != cudaSuccess) {
    static_cast<void>(cudaGetLastError());
    if (image == cudaErrorNoKernelImageForDevice || image == cudaErrorInvalidDeviceFunction) {
      return concat("this build holds no kernels for compute capability ", major, ".", minor,
                    " (it was built for ", ENGINE_CUDA_ARCHITECTURES, ")");
    }
    return concat("the device can't be used: ", describe(image));
  }
  return "";
}

CudaContext::CudaContext(int index) : index_(index) {
  int count = 0;
  std::string problem = cuda_problem(&count);
  if (problem.empty() && (index < 0 || index >= count)) {
    problem = concat("no such device, this machine has ", count);
  }
  if (problem.empty()) problem = cuda_device_problem(index);
  ENGINE_CHECK(problem.empty(), ErrorKind::kDevice, to_string(device()), ": ", problem);

  arch_.path = parse_cuda_path(std::getenv("ENGINE_CUDA_PATH"));
  arch_.major = attribute(cudaDevAttrComputeCapabilityMajor, index);
  arch_.minor = attribute(cudaDevAttrComputeCapabilityMinor, index);
  arch_.sms = attribute(cudaDevAttrMultiProcessorCount, index);
  arch_.shared_bytes =
      static_cast<std::size_t>(attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin, index));
  cudaDeviceProp properties{};
  check_cuda(cudaGetDeviceProperties(&properties, index), "reading the device's properties");
  name_ = properties.name;

  constexpr std::size_t kBytes = kCounters * sizeof(std::uint32_t);
  check_cuda(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "creating a stream");
  cudaError_t status = cudaMalloc(reinterpret_cast<void**>(&counters_), kBytes);
  if (status == cudaSuccess) status = cudaMemsetAsync(counters_, 0, kBytes, stream_);
  if (status != cudaSuccess) {
    cudaFree(counters_);
    cudaStreamDestroy(stream_);
    check_cuda(status, "reserving the counters");
  }
}

CudaContext::~CudaContext() {
  cudaSetDevice(index_);
  cudaStreamSynchronize(stream_);
  cudaFree(counters_);
  cudaStreamDestroy(stream_);
}

void CudaContext::make_current() const {
  check_cuda(cudaSetDevice(index_), "selecting the device");
}

void CudaContext::check_launch(cudaError_t status) const {
  if (status == cudaSuccess) return;
  static_cast<void>(cudaGetLastError());
  fail(ErrorKind::kDevice, to_string(device()), ": launching ", last_op_,
       " failed: ", describe(status));
}

void CudaContext::check_wait(cudaError_t status) const {
  if (status == cudaSuccess) return;
  static_cast<void>(cudaGetLastError());
  fail(ErrorKind::kDevice, to_string(device()), ": the work issued up to ", last_op_,
       " failed: ", describe(status));
}

void CudaContext::require_not_recording(const char* what) const {
  ENGINE_REQUIRE(!recording_, "CUDA: ", what, " while a step is being recorded");
}

}  // namespace engine::cuda
