#include "kernels/cpu/cpu_backend.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <utility>
#include <vector>

#include "kernels/core/check.h"
#include "kernels/core/workspace.h"
#include "kernels/cpu/context.h"
#include "kernels/cpu/cpu_measure.h"
#include "kernels/cpu/cpu_ops.h"
#include "kernels/cpu/cpu_uploader.h"
#include "kernels/cpu/host_info.h"
#include "kernels/cpu/isa.h"
#include "kernels/cpu/pack.h"
#include "kernels/recorder.h"

namespace engine {
namespace {

constexpr int kMaxThreads = 1024;
// Fewer than two readers could not overlap a read with a conversion; many more than this gain
// nothing on one disk.
constexpr int kMinReaders = 2, kMaxReaders = 16;
constexpr std::size_t kHugePage = std::size_t{2} << 20;

// Set while a step is recorded: whatever is not an op then throws.
struct Recording {
  bool active = false;
  void refuse(const char* what) const {
    ENGINE_REQUIRE(!active, what, " while a step is being recorded");
  }
};

void require_host(const char* what, const Tensor& tensor) {
  ENGINE_REQUIRE(tensor.device == Device{}, what, ": the tensor is on ", to_string(tensor.device));
  ENGINE_REQUIRE(tensor.is_contiguous(), what, ": a tensor of shape ", tensor.shape,
                 " is not contiguous");
}

class CpuPlan final : public Plan {
 public:
  CpuPlan(std::vector<RecordedCall> calls, Ops& ops, const Recording& recording)
      : calls_(std::move(calls)), ops_(ops), recording_(recording) {}

  void run() override {
    recording_.refuse("running a plan");
    for (const RecordedCall& recorded : calls_) run_call(ops_, recorded.call, recorded.scratch);
  }

 private:
  std::vector<RecordedCall> calls_;
  Ops& ops_;
  const Recording& recording_;
};

// Ops have finished when their calls return, so a result is copied as it is pushed.
class CpuReadback final : public Readback {
 public:
  CpuReadback(std::size_t bytes, int depth, const Recording& recording)
      : bytes_(bytes), depth_(static_cast<std::size_t>(depth)), recording_(recording) {}

  void push(const Tensor& source) override {
    recording_.refuse("a readback");
    require_host("readback", source);
    ENGINE_REQUIRE(source.bytes() <= bytes_, "readback: ", source.bytes(), " bytes, at most ",
                   bytes_);
    ENGINE_REQUIRE(queue_.size() < depth_, "readback: ", depth_, " results are already queued");
    const auto* data = source.as<std::byte>();
    queue_.emplace_back(data, data + source.bytes());
  }

  void pop(void* destination) override {
    recording_.refuse("a readback");
    ENGINE_REQUIRE(!queue_.empty(), "readback: nothing is queued");
    std::copy(queue_.front().begin(), queue_.front().end(), static_cast<std::byte*>(destination));
    queue_.pop_front();
  }

 private:
  std::size_t bytes_;
  std::size_t depth_;
  const Recording& recording_;
  std::deque<std::vector<std::byte>> queue_;
};

class CpuBackend final : public Backend {
 public:
  explicit CpuBackend(const BackendOptions& options)
      : resident_at_start_(cpu::resident_bytes()), ops_(context_) {
    ENGINE_CHECK(options.threads >= 0 && options.threads <= kMaxThreads, ErrorKind::kUsage,
                 "threads: expected 1 to ", kMaxThreads, ", found ", options.threads);
    context_.kernels = &cpu::choose_kernels();
    context_.threads = options.threads > 0 ? options.threads : default_thread_count();
    context_.interrupt = options.interrupt;
    scratch_ = allocate(static_cast<std::size_t>(context_.threads) * cpu::Context::kScratchBytes);
    context_.scratch = static_cast<std::byte*>(scratch_.data());
  }

  Device device() const override { return {}; }
  std::string description() const override {
    return concat(context_.threads, context_.threads == 1 ? " thread, " : " threads, ",
                  context_.kernels->label);
  }
  MemoryInfo memory() const override;
  std::size_t peak_bytes() const override { return peak_; }

  Buffer allocate(std::size_t bytes) override;
  void write(const Tensor& destination, const void* source) override {
    recording_.refuse("a host copy");
    require_host("write", destination);
    if (destination.bytes() > 0) std::memcpy(destination.data, source, destination.bytes());
  }
  void read(void* destination, const Tensor& source) override {
    recording_.refuse("a host copy");
    require_host("read", source);
    if (source.bytes() > 0) std::memcpy(destination, source.data, source.bytes());
  }
  void fill_zero(const Tensor& destination) override {
    recording_.refuse("filling memory");
    require_host("fill_zero", destination);
    if (destination.bytes() > 0) std::memset(destination.data, 0, destination.bytes());
  }
  void synchronize() override { recording_.refuse("synchronisation"); }

  Ops& ops() override { return ops_; }
  std::unique_ptr<Plan> record(const Step& step) override;
  std::unique_ptr<Uploader> uploader() override {
    return cpu::make_uploader(*this, *context_.kernels,
                              std::clamp(context_.threads, kMinReaders, kMaxReaders));
  }
  std::unique_ptr<Readback> readback(std::size_t bytes, int depth) override {
    recording_.refuse("allocation");
    return std::make_unique<CpuReadback>(bytes, depth, recording_);
  }
  PackedWeight pack(const std::string& name, Buffer source, DType dtype, std::int64_t rows,
                    std::int64_t columns, QuantFormat format) override {
    recording_.refuse("allocation");
    return cpu::pack(*this, name, std::move(source), dtype, rows, columns, format);
  }
  std::unique_ptr<Measure> measure() override { return cpu::make_measure(*this, context_); }

 private:
  std::size_t resident_at_start_;
  std::size_t live_ = 0;  // bytes allocated and not given back
  std::size_t peak_ = 0;
  Recording recording_;
  cpu::Context context_;
  cpu::CpuOps ops_;
  Buffer scratch_;
};

// Memory that was handed out but not yet touched still counts as available to the system. It is
// promised, so it is taken off here: as much of it as this process's growth does not account for.
MemoryInfo CpuBackend::memory() const {
  MemoryInfo info = cpu::host_memory();
  const std::size_t resident = cpu::resident_bytes();
  const std::size_t grown = resident - std::min(resident, resident_at_start_);
  const std::size_t promised = live_ - std::min(live_, grown);
  info.free -= std::min(info.free, promised);
  return info;
}

Buffer CpuBackend::allocate(std::size_t bytes) {
  recording_.refuse("allocation");
  // Linux hands out address space beyond what it can back, and kills the process that uses it: so
  // what is free is looked up, not left to the allocator to find out.
  const std::size_t free_bytes = memory().free;
  ENGINE_CHECK(bytes <= free_bytes, ErrorKind::kMemory, "host memory: ", bytes,
               " bytes are needed, ", free_bytes, " are free");
  const std::size_t alignment = bytes >= 2 * kHugePage ? kHugePage : Workspace::kAlignment;
  const std::size_t rounded =
      (std::max(bytes, std::size_t{1}) + alignment - 1) / alignment * alignment;
  void* data = std::aligned_alloc(alignment, rounded);
  ENGINE_CHECK(data != nullptr, ErrorKind::kMemory, "host memory: ", bytes,
               " bytes are needed, the system refused them with ", free_bytes, " free");
  if (alignment == kHugePage) madvise(data, rounded, MADV_HUGEPAGE);  // fewer page walks
  live_ += bytes;
  peak_ = std::max(peak_, live_);
  return Buffer(data, bytes, device(), [this, bytes](void* memory) {
    std::free(memory);
    live_ -= bytes;
  });
}

std::unique_ptr<Plan> CpuBackend::record(const Step& step) {
  recording_.refuse("recording");
  struct Guard {
    bool& active;
    ~Guard() { active = false; }
  };
  recording_.active = true;
  const Guard guard{recording_.active};
  Recorder recorder(ops_);
  step(recorder);
  return std::make_unique<CpuPlan>(recorder.take(), ops_, recording_);
}

}  // namespace

std::unique_ptr<Backend> make_cpu_backend(const BackendOptions& options) {
  return std::make_unique<CpuBackend>(options);
}

DeviceInfo cpu_device_info() {
  DeviceInfo info;
  info.name = cpu::processor_name();
  info.memory = cpu::host_memory();
  try {
    info.name += concat(", ", default_thread_count(), " cores, ", cpu::choose_kernels().label);
  } catch (const Error& error) {  // ENGINE_ISA names what this machine can't run
    info.problem = error.what();
  }
  return info;
}

}  // namespace engine
