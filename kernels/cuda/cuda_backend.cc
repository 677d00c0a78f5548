#include "kernels/cuda/cuda_backend.h"

#include <utility>

#include "kernels/core/check.h"
#include "kernels/cuda/context.h"
#include "kernels/cuda/cuda_ops.h"
#include "kernels/cuda/measure.h"
#include "kernels/cuda/memory.h"
#include "kernels/cuda/pack.h"
#include "kernels/cuda/plan.h"
#include "kernels/cuda/readback.h"
#include "kernels/cuda/uploader.h"
#include "kernels/recorder.h"

namespace engine {
namespace cuda {
namespace {

class CudaBackend final : public Backend {
 public:
  CudaBackend(int index, const BackendOptions& options)
      : context_(index), memory_(context_), ops_(context_), threads_(options.threads) {}

  Device device() const override { return context_.device(); }

  std::string description() const override {
    const CudaArch& arch = context_.arch();
    return concat(context_.name(), ", ", arch.sms, " SMs, compute capability ", arch.major, ".",
                  arch.minor, ", ", arch.hopper() ? "sm_90" : "portable", " kernels");
  }

  MemoryInfo memory() const override {
    context_.make_current();
    MemoryInfo info;
    check_cuda(cudaMemGetInfo(&info.free, &info.total), "asking for the free memory");
    return info;
  }

  std::size_t peak_bytes() const override { return memory_.peak(); }

  Buffer allocate(std::size_t bytes) override { return memory_.allocate(bytes); }

  void write(const Tensor& destination, const void* source) override {
    begin_copy("write", destination);
    if (destination.bytes() == 0) return;
    context_.check_wait(cudaMemcpyAsync(destination.data, source, destination.bytes(),
                                        cudaMemcpyHostToDevice, context_.stream()));
    context_.check_wait(cudaStreamSynchronize(context_.stream()));
  }

  void read(void* destination, const Tensor& source) override {
    begin_copy("read", source);
    if (source.bytes() == 0) return;
    context_.check_wait(cudaMemcpyAsync(destination, source.data, source.bytes(),
                                        cudaMemcpyDeviceToHost, context_.stream()));
    context_.check_wait(cudaStreamSynchronize(context_.stream()));
  }

  void fill_zero(const Tensor& destination) override {
    begin_copy("fill_zero", destination);
    if (destination.bytes() == 0) return;
    context_.begin_op("fill_zero");
    context_.check_launch(
        cudaMemsetAsync(destination.data, 0, destination.bytes(), context_.stream()));
  }

  void synchronize() override {
    context_.require_not_recording("a synchronisation");
    context_.make_current();
    context_.check_wait(cudaStreamSynchronize(context_.stream()));
  }

  Ops& ops() override { return ops_; }

  std::unique_ptr<Plan> record(const Step& step) override {
    context_.require_not_recording("another recording");
    std::vector<RecordedCall> calls;
    {
      struct Recording {
        CudaContext& context;
        explicit Recording(CudaContext& c) : context(c) { context.set_recording(true); }
        ~Recording() { context.set_recording(false); }
      } recording(context_);
      Recorder recorder(ops_);
      step(recorder);
      calls = recorder.take();
    }
    return std::make_unique<CudaPlan>(context_, ops_, calls);
  }

  std::unique_ptr<Uploader> uploader() override {
    return std::make_unique<CudaUploader>(context_, memory_, threads_);
  }

  PackedWeight pack(const std::string& name, Buffer source, DType dtype, std::int64_t rows,
                    std::int64_t columns, QuantFormat format) override {
    return cuda::pack(context_, memory_, name, std::move(source), dtype, rows, columns, format);
  }

  std::unique_ptr<Measure> measure() override { return make_measure(context_, memory_); }

  std::unique_ptr<Readback> readback(std::size_t bytes, int depth) override {
    return std::make_unique<CudaReadback>(context_, bytes, depth);
  }

 private:
  void begin_copy(const char* what, const Tensor& tensor) {
    context_.require_not_recording(what);
    ENGINE_REQUIRE(tensor.is_contiguous() && tensor.device == device(), what, ": a tensor ",
                   tensor.shape, " on ", to_string(tensor.device), ", expected dense and on ",
                   to_string(device()));
    context_.make_current();
  }

  CudaContext context_;
  DeviceMemory memory_;
  CudaOps ops_;
  int threads_;
};

}  // namespace
}  // namespace cuda

std::unique_ptr<Backend> make_cuda_backend(int index, const BackendOptions& options) {
  return std::make_unique<cuda::CudaBackend>(index, options);
}

std::vector<DeviceInfo> list_cuda_devices(std::string* problem) {
  int count = 0;
  *problem = cuda::cuda_problem(&count);
  std::vector<DeviceInfo> devices;
  for (int index = 0; index < count; ++index) {
    DeviceInfo info{{DeviceKind::kCuda, index}, "", {}, cuda::cuda_device_problem(index)};
    cudaDeviceProp properties{};
    if (cudaGetDeviceProperties(&properties, index) == cudaSuccess) info.name = properties.name;
    if (info.problem.empty() &&
        cudaMemGetInfo(&info.memory.free, &info.memory.total) != cudaSuccess) {
      info.problem = "its memory can't be read";
    }
    static_cast<void>(cudaGetLastError());
    devices.push_back(std::move(info));
  }
  return devices;
}

}  // namespace engine
