// Measuring on a backend: device timers, a cold cache, plain streams to compare with, and synthetic
// data. For benchmarks; no model needs it.
//
// Made by Backend::measure, used by one thread, destroyed before its backend. Work is issued on the
// backend's stream, in order with its ops; only time() and telemetry() wait.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>

#include "kernels/core/tensor.h"

namespace engine {

// What a device says of itself now. Absent where it doesn't say; nothing here changes a setting.
struct Telemetry {
  std::optional<double> clock_mhz;      // of the processors
  std::optional<double> power_w;        // drawn
  std::optional<double> temperature_c;  // of the chip
};

// Which random numbers: element i of a tensor is a function of (seed, stream, i) alone, whatever
// the device, the tensor's type or the thread.
struct RandomSource {
  std::uint64_t seed = 0;
  std::uint64_t stream = 0;
};

class Measure {
 public:
  virtual ~Measure() = default;

  // Bytes of the last-level cache.
  virtual std::size_t cache_bytes() const = 0;
  // Reads a buffer of twice the last-level cache, so that what was in it no longer is. It reads,
  // because written lines would have to leave the cache later, inside a measurement. The buffer is
  // allocated at the first call.
  virtual void flush_cache() = 0;

  // Seconds between the beginning and the end of the work that `issue` issues, on the device's own
  // clock. Issued right behind what came before (a flush, say), so that launching the work is
  // hidden behind that as far as it lasts.
  virtual double time(const std::function<void()>& issue) = 0;

  // Reads every byte of a contiguous tensor once, as fast as the device can.
  virtual void read(const Tensor& source) = 0;
  // Copies between contiguous tensors of the same size on the device.
  virtual void copy(const Tensor& destination, const Tensor& source) = 0;

  // destination[i] = sigma · normal(i), rounded to the type; floating-point and contiguous. The
  // normals are standard: Box and Muller's transform of Philox uniforms (normal4 in core/philox.h).
  virtual void fill_normal(const Tensor& destination, float sigma, RandomSource source) = 0;
  // destination[i] uniform in [0, 1), rounded to the type (which may make it 1); floating-point and
  // contiguous. Element i is word i % 4 of Philox block i ÷ 4, as uniform_open takes it.
  virtual void fill_uniform(const Tensor& destination, RandomSource source) = 0;
  // destination[i] = value, rounded to the type; floating-point and contiguous.
  virtual void fill_constant(const Tensor& destination, float value) = 0;

  virtual Telemetry telemetry() = 0;
  // For people: "driver 580.159, CUDA 13.0"; empty where a device needs none.
  virtual std::string driver() = 0;
};

}  // namespace engine
