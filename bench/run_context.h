// What every experiment of a run shares.
#pragma once

#include <atomic>
#include <string>

#include "bench/ceilings.h"
#include "bench/result.h"
#include "kernels/backend.h"

namespace engine::bench {

struct RunContext {
  Device device;
  BackendOptions backend;  // threads and the interrupt
  std::string arch;        // of the device, for the rows
  std::string commit;      // this build's
  Ceilings* ceilings = nullptr;

  // A row that says where it was measured.
  Result row(const std::string& name, const std::string& metric, const std::string& dtype) const {
    Result result;
    result.name = name;
    result.metric = metric;
    result.dtype = dtype;
    result.device = device.kind == DeviceKind::kCuda ? "cuda" : "cpu";
    result.arch = arch;
    return result;
  }
  // Throws Interrupted where the run was asked to stop.
  void poll() const {
    if (backend.interrupt != nullptr && backend.interrupt->load()) throw Interrupted{};
  }
};

}  // namespace engine::bench
