// What this machine can do at most, measured: reads, copies, a product.
#pragma once

#include <cstddef>
#include <memory>
#include <optional>
#include <vector>

#include "bench/harness.h"
#include "bench/result.h"
#include "kernels/backend.h"

namespace engine::bench {

struct RunContext;

// The ceilings that other results are set against, each measured when it is first asked for, on a
// backend of its own, so that no model's memory is counted with it. Used by one thread.
class Ceilings {
 public:
  Ceilings(Device device, const BackendOptions& options) : device_(device), options_(options) {}

  // Reading gigabytes once, in 10⁹ bytes a second.
  double read_gb_per_s();
  // A large bf16 product by the backend's own linear, in 10¹² operations a second.
  double product_tflops();

  // The samples of the two, in the same units.
  struct Measured {
    std::vector<double> values;
    Telemetry telemetry;
    double flops = 0, bytes = 0;  // of a sample of the product
  };
  const Measured& read();
  const Measured& product();

 private:
  Device device_;
  BackendOptions options_;
  std::optional<Measured> read_, product_;
};

// Reads in turn with what they are set against. Memory that a machine shares, with other programs
// or other machines, gives one rate now and another a second later, by a factor of 1.5: so a
// ceiling read once says little of a run that takes longer.
class ReadBeside {
 public:
  ReadBeside(Device device, const BackendOptions& options);
  ~ReadBeside();

  // One read of a stream; returns the seconds it took.
  double read();
  // Over all reads so far, in 10⁹ bytes a second; reads once where there is none.
  double gb_per_s();

 private:
  class Source;
  std::unique_ptr<Source> source_;
  double seconds_ = 0.0, gigabytes_ = 0.0;
};

// The experiment `ceilings`: a stream of reads, cold reads of several sizes, a copy, and a product.
std::vector<Result> run_ceilings(const RunContext& context);

}  // namespace engine::bench
