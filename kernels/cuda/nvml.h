// What the driver's management library says of a device: clock, power, temperature.
//
// The library is looked for at run time; where it is missing, or says nothing, the values are
// absent. Only questions are asked of it. Used by one thread.
#pragma once

#include <memory>
#include <string>

#include "kernels/measure.h"

namespace engine::cuda {

class Nvml {
 public:
  // `pci_bus_id` as CUDA gives it: "0000:17:00.0".
  explicit Nvml(const std::string& pci_bus_id);
  ~Nvml();
  Nvml(const Nvml&) = delete;
  Nvml& operator=(const Nvml&) = delete;

  Telemetry read() const;
  // The driver's version, or "".
  std::string driver() const;

 private:
  struct Library;
  std::unique_ptr<Library> library_;  // null: not there
};

}  // namespace engine::cuda
