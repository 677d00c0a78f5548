#include "kernels/cuda/nvml.h"

#include <dlfcn.h>

#include <array>
#include <optional>

namespace engine::cuda {
namespace {

// The few names of NVML's stable interface that are used, under their documented values.
using Device = void*;
constexpr int kSuccess = 0;
constexpr int kClockSm = 1;
constexpr int kTemperatureGpu = 0;

}  // namespace

struct Nvml::Library {
  void* handle = nullptr;
  int (*init)() = nullptr;
  int (*shutdown)() = nullptr;
  int (*driver)(char* text, unsigned size) = nullptr;
  int (*find)(const char* pci_bus_id, Device* device) = nullptr;
  int (*clock)(Device device, int kind, unsigned* megahertz) = nullptr;
  int (*power)(Device device, unsigned* milliwatts) = nullptr;
  int (*temperature)(Device device, int sensor, unsigned* celsius) = nullptr;
  bool initialised = false;
  Device device = nullptr;

  Library() = default;
  Library(const Library&) = delete;
  Library& operator=(const Library&) = delete;
  ~Library() {
    if (initialised) shutdown();
    if (handle != nullptr) dlclose(handle);
  }

  template <typename Function>
  bool load(const char* name, Function* function) {
    *function = reinterpret_cast<Function>(dlsym(handle, name));
    return *function != nullptr;
  }

  bool open(const std::string& pci_bus_id) {
    handle = dlopen("libnvidia-ml.so.1", RTLD_NOW | RTLD_LOCAL);
    if (handle == nullptr) return false;
    const bool complete =
        load("nvmlInit_v2", &init) && load("nvmlShutdown", &shutdown) &&
        load("nvmlSystemGetDriverVersion", &driver) &&
        load("nvmlDeviceGetHandleByPciBusId_v2", &find) && load("nvmlDeviceGetClockInfo", &clock) &&
        load("nvmlDeviceGetPowerUsage", &power) && load("nvmlDeviceGetTemperature", &temperature);
    if (!complete) return false;
    initialised = init() == kSuccess;
    return initialised && find(pci_bus_id.c_str(), &device) == kSuccess;
  }
};

Nvml::Nvml(const std::string& pci_bus_id) : library_(std::make_unique<Library>()) {
  if (!library_->open(pci_bus_id)) library_.reset();
}

Nvml::~Nvml() = default;

Telemetry Nvml::read() const {
  Telemetry now;
  if (library_ == nullptr) return now;
  unsigned value = 0;
  if (library_->clock(library_->device, kClockSm, &value) == kSuccess) now.clock_mhz = value;
  if (library_->power(library_->device, &value) == kSuccess) now.power_w = value * 1e-3;
  if (library_->temperature(library_->device, kTemperatureGpu, &value) == kSuccess) {
    now.temperature_c = value;
  }
  return now;
}

std::string Nvml::driver() const {
  std::array<char, 96> text{};
  if (library_ == nullptr || library_->driver(text.data(), text.size() - 1) != kSuccess) return {};
  return text.data();
}

}  // namespace engine::cuda
