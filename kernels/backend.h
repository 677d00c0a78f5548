// A backend: one device's memory, ops and recorded steps.
//
// Made by make_backend. One thread at a time may use a backend and everything made from it.
// Buffers, plans, uploaders, readbacks and measures must be destroyed before it.
#pragma once

#include <atomic>
#include <cstddef>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "kernels/core/buffer.h"
#include "kernels/ops.h"

namespace engine {

class Measure;

// The work of one step: it asks `ops` for everything, in order, and holds no state of its own.
using Step = std::function<void(Ops& ops)>;

// A recorded step. run() issues it again, asynchronously, at the same addresses and shapes;
// whatever differs from run to run is read from device tensors.
class Plan {
 public:
  virtual ~Plan() = default;
  virtual void run() = 0;
};

// Brings the weights of a model to the device: several threads read rows while earlier ones are
// still being copied.
class Uploader {
 public:
  virtual ~Uploader() = default;

  // Reserves memory for the rows of `parts`, one matrix below the other (all of one width), stored
  // in `format`, and queues the reading. The address in the Weight is final; the contents are there
  // after finish(). Throws Error{kMemory} with need and free bytes.
  virtual Weight add(std::vector<HostWeight> parts, QuantFormat format) = 0;

  // Reads and copies everything queued; `progress` is called on this thread with the bytes read so
  // far, a few times a second, and may throw to abandon the load. Rethrows the first error of any
  // reader. Returns the memory that the weights live in.
  virtual std::vector<Buffer> finish(const std::function<void(std::size_t bytes)>& progress) = 0;
};

// A weight and the memory it lives in.
struct PackedWeight {
  Weight weight;
  std::vector<Buffer> memory;
};

// A queue of small results on their way from the device to the host.
class Readback {
 public:
  virtual ~Readback() = default;
  // Queues a copy of `source`, as it is once the work issued so far is done; nothing issued before
  // the copy was popped may write there. Never waits, and holds up no work issued afterwards.
  // Throws Error{kInternal} where `depth` results are queued already.
  virtual void push(const Tensor& source) = 0;
  // Waits for the oldest queued copy and writes it to `destination`.
  virtual void pop(void* destination) = 0;
};

struct MemoryInfo {
  std::size_t free = 0;
  std::size_t total = 0;
};

class Backend {
 public:
  virtual ~Backend() = default;

  virtual Device device() const = 0;
  // For people: "NVIDIA H200, 132 SMs, sm_90a kernels" or "2 threads, AVX-512".
  virtual std::string description() const = 0;
  // Bytes a new allocation could get. On the CPU: what the machine and the cgroup leave.
  virtual MemoryInfo memory() const = 0;
  // The most bytes allocated through this backend at any one time.
  virtual std::size_t peak_bytes() const = 0;

  // Uninitialised memory, aligned to Workspace::kAlignment. Throws Error{kMemory} naming need and
  // free bytes.
  virtual Buffer allocate(std::size_t bytes) = 0;
  // Blocking copies of contiguous tensors, ordered after the work issued so far.
  virtual void write(const Tensor& destination, const void* source) = 0;
  virtual void read(void* destination, const Tensor& source) = 0;
  // Sets every byte of a contiguous tensor, asynchronously.
  virtual void fill_zero(const Tensor& destination) = 0;
  // Waits for all issued work. Throws Error{kDevice} naming the op if any of it failed.
  virtual void synchronize() = 0;

  virtual Ops& ops() = 0;
  // Runs `step` once against a recorder and keeps its calls; nothing is executed. While recording,
  // allocation, host copies and synchronisation throw Error{kInternal}.
  virtual std::unique_ptr<Plan> record(const Step& step) = 0;
  // Bytes of workspace that `step` needs, by a dry run: the step is given ops that do nothing and
  // a workspace without memory.
  std::size_t workspace_bytes(const std::function<void(Ops&, Workspace)>& step);

  virtual std::unique_ptr<Uploader> uploader() = 0;
  // Makes a weight of the matrix that `source` begins with — (rows, columns) of the floating-point
  // `dtype`, dense — in this backend's layout of `format`: what an uploader does, for a matrix that
  // is on the device already. The memory of `source` becomes the weight's where nothing needs
  // converting, else it is given back. Throws Error{kModel} with `name` where `format` can't hold a
  // value (NaN or infinity), and Error{kMemory}. May wait for the device.
  virtual PackedWeight pack(const std::string& name, Buffer source, DType dtype, std::int64_t rows,
                            std::int64_t columns, QuantFormat format) = 0;
  virtual std::unique_ptr<Readback> readback(std::size_t bytes, int depth) = 0;
  // Timers and synthetic data (kernels/measure.h).
  virtual std::unique_ptr<Measure> measure() = 0;
};

struct BackendOptions {
  int threads = 0;  // CPU threads for ops (CPU) and for reading checkpoints; 0: physical cores
  // Polled by CPU ops, which then throw Interrupted; may be null.
  const std::atomic<bool>* interrupt = nullptr;
};

// Thrown out of a CPU op when BackendOptions::interrupt became true: not an error, a request to
// stop.
struct Interrupted {};

// Throws Error{kDevice} with the reason where the device can't be used.
std::unique_ptr<Backend> make_backend(Device device, const BackendOptions& options);

struct DeviceInfo {
  Device device;
  std::string name;
  MemoryInfo memory;
  std::string problem;  // empty: usable; else why not
};

// The CPU, then every CUDA device of the machine. Never throws: where CUDA isn't built in or has no
// driver, `*cuda_problem` says so.
std::vector<DeviceInfo> list_devices(std::string* cuda_problem);

// The physical cores this process may use: its affinity, its cgroup's quota, one thread a core.
int default_thread_count();
// The instruction set the CPU kernels chose: "avx512", "avx2" or "portable" (ENGINE_ISA forces
// one).
std::string cpu_isa_name();

}  // namespace engine
