#include "kernels/cuda/measure.h"

#include <array>
#include <string>

#include "kernels/core/check.h"
#include "kernels/cuda/nvml.h"

namespace engine::cuda {
namespace {

class Event {
 public:
  Event() { check_cuda(cudaEventCreate(&event_), "creating an event"); }
  ~Event() { cudaEventDestroy(event_); }
  Event(const Event&) = delete;
  Event& operator=(const Event&) = delete;
  cudaEvent_t get() const { return event_; }

 private:
  cudaEvent_t event_ = nullptr;
};

std::string pci_bus_id(int index) {
  std::array<char, 32> text{};
  check_cuda(cudaDeviceGetPCIBusId(text.data(), static_cast<int>(text.size()), index),
             "reading the device's bus");
  return text.data();
}

class CudaMeasure final : public Measure {
 public:
  CudaMeasure(CudaContext& context, DeviceMemory& memory)
      : context_(context), memory_(memory), nvml_(pci_bus_id(context.index())) {
    context_.make_current();
    int bytes = 0;
    check_cuda(cudaDeviceGetAttribute(&bytes, cudaDevAttrL2CacheSize, context_.index()),
               "reading the size of the cache");
    cache_bytes_ = static_cast<std::size_t>(bytes);
    sink_ = memory_.allocate(sizeof(std::uint32_t));
  }

  std::size_t cache_bytes() const override { return cache_bytes_; }

  void flush_cache() override {
    if (flush_.bytes() == 0) {
      flush_ = memory_.allocate(2 * cache_bytes_);
      context_.check_launch(cudaMemsetAsync(flush_.data(), 1, flush_.bytes(), context_.stream()));
    }
    begin("flush_cache");
    read_stream(context_, flush_.data(), flush_.bytes(), sink());
  }

  double time(const std::function<void()>& issue) override {
    begin("a timer");
    context_.check_launch(cudaEventRecord(start_.get(), context_.stream()));
    issue();
    context_.check_launch(cudaEventRecord(stop_.get(), context_.stream()));
    context_.check_wait(cudaEventSynchronize(stop_.get()));
    float milliseconds = 0;
    context_.check_wait(cudaEventElapsedTime(&milliseconds, start_.get(), stop_.get()));
    return static_cast<double>(milliseconds) * 1e-3;
  }

  void read(const Tensor& source) override {
    require_dense("read", source);
    ENGINE_REQUIRE(reinterpret_cast<std::uintptr_t>(source.data) % 16 == 0,
                   "read: the tensor does not start on a multiple of 16 bytes");
    read_stream(context_, source.data, source.bytes(), sink());
  }

  void copy(const Tensor& destination, const Tensor& source) override {
    require_dense("copy", source);
    require_dense("copy", destination);
    ENGINE_REQUIRE(destination.bytes() == source.bytes(), "copy: ", source.bytes(), " bytes to ",
                   destination.bytes());
    context_.check_launch(cudaMemcpyAsync(destination.data, source.data, source.bytes(),
                                          cudaMemcpyDeviceToDevice, context_.stream()));
  }

  void fill_normal(const Tensor& destination, float sigma, RandomSource source) override {
    require_dense("fill_normal", destination);
    cuda::fill_normal(context_, destination, sigma, source);
  }

  void fill_uniform(const Tensor& destination, RandomSource source) override {
    require_dense("fill_uniform", destination);
    cuda::fill_uniform(context_, destination, source);
  }

  void fill_constant(const Tensor& destination, float value) override {
    require_dense("fill_constant", destination);
    cuda::fill_constant(context_, destination, value);
  }

  Telemetry telemetry() override { return nvml_.read(); }
  std::string driver() override {
    int runtime = 0;
    check_cuda(cudaRuntimeGetVersion(&runtime), "asking for the version of the run-time");
    const std::string version = nvml_.driver();
    return concat("driver ", version.empty() ? "unknown" : version, ", CUDA ", runtime / 1000, ".",
                  runtime % 1000 / 10);
  }

 private:
  std::uint32_t* sink() const { return static_cast<std::uint32_t*>(sink_.data()); }

  void begin(const char* what) {
    context_.require_not_recording(what);
    context_.make_current();
    context_.begin_op(what);
  }
  void require_dense(const char* what, const Tensor& tensor) {
    ENGINE_REQUIRE(tensor.device == context_.device() && tensor.is_contiguous(), what,
                   ": a tensor ", tensor.shape, " on ", to_string(tensor.device),
                   ", expected dense and on ", to_string(context_.device()));
    begin(what);
  }

  CudaContext& context_;
  DeviceMemory& memory_;
  Nvml nvml_;
  Event start_, stop_;
  std::size_t cache_bytes_ = 0;
  Buffer flush_;
  Buffer sink_;
};

}  // namespace

std::unique_ptr<Measure> make_measure(CudaContext& context, DeviceMemory& memory) {
  context.make_current();
  return std::make_unique<CudaMeasure>(context, memory);
}

}  // namespace engine::cuda
