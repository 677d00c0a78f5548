// From the names of a model's tensors to weights on a device.
//
// A model first declares what it wants: names, exact shapes, and where the result goes. Nothing is
// read or made then, so that missing, extra or misshapen tensors and the memory that all of it
// takes are known before the first byte of data. A subclass says where the values come from: a
// checkpoint (here), or a generator (bench/synthetic_binder.h).
//
// Until the weights are loaded, what was declared has its shape and format but an address that
// nobody may touch, so that the session's memory can be worked out. Used by one thread. The memory
// that loading returns must outlive what it filled in.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <unordered_set>
#include <vector>

#include "engine/io/checkpoint.h"
#include "kernels/backend.h"
#include "kernels/core/buffer.h"
#include "kernels/core/weight.h"

namespace engine {

class WeightBinder {
 public:
  // One tensor of a matrix, with the columns of the whole: (rows, columns), or, where `stack` is
  // not 0, that many matrices in one tensor, (stack, rows, columns), which lie below one another.
  struct Part {
    std::string name;
    std::int64_t rows = 0;
    std::int64_t stack = 0;

    std::int64_t total_rows() const;
    std::vector<std::int64_t> shape(std::int64_t columns) const;
  };

  virtual ~WeightBinder() = default;

  // *into = the parts, one below the other, for products with activations: projections,
  // feed-forward, experts and the output head. Stored in the format chosen for these. Throws
  // Error{kModel} naming a tensor that is missing, of another shape or not a floating-point type.
  void linear(Weight* into, std::vector<Part> parts, std::int64_t columns);
  // The same for a matrix that is never quantised, an embedding table or a router: it keeps the
  // compute type.
  void matrix(Weight* into, std::vector<Part> parts, std::int64_t columns);
  // *into = a linear weight with the numbers of *table, which was declared as the matrix `part`:
  // the table itself where linear weights are stored as it is, else a copy in their format.
  void tied_linear(Weight* into, const Weight* table, Part part, std::int64_t columns);
  // *into = a vector of `size` elements in the compute type.
  void vector(Tensor* into, const std::string& name, std::int64_t size);
  // A tensor that may be there and is not used.
  virtual void ignore(const std::string& name) = 0;
  // Whether the source is known to hold a tensor of that name, for models with several layouts.
  virtual bool has(const std::string& name) const = 0;

  // Bytes that the declared weights take on the device, scales included.
  std::size_t device_bytes() const { return device_bytes_; }

 protected:
  struct Request {
    Weight* matrix = nullptr;  // one of the two is set
    Tensor* vector = nullptr;
    std::vector<Part> parts;
    std::int64_t columns = 0;
    QuantFormat format = QuantFormat::kF32;
  };

  // Linear weights are stored in `linear`, everything else as `dtype`, a floating-point type.
  WeightBinder(DType dtype, QuantFormat linear);

  // Called for every tensor declared, before its weight is laid out: throws where it can't be had.
  virtual void require(const std::string& name, const std::vector<std::int64_t>& shape) = 0;

  const std::vector<Request>& requests() const { return requests_; }
  // Hands `weight` to whoever declared `request`.
  void fulfil(const Request& request, const Weight& weight) const;
  // After the last fulfil(): makes the aliases good.
  void resolve_aliases() const;

 private:
  struct Alias {
    Weight* into;
    const Weight* source;
  };

  void declare(Weight* into, std::vector<Part> parts, std::int64_t columns, QuantFormat format);

  DType dtype_;
  QuantFormat linear_;
  std::vector<Request> requests_;
  std::vector<Alias> aliases_;
  std::size_t device_bytes_ = 0;
};

// Weights from the files of a checkpoint, which must outlive the binder.
class CheckpointBinder final : public WeightBinder {
 public:
  CheckpointBinder(const Checkpoint& checkpoint, DType dtype, QuantFormat linear);

  void ignore(const std::string& name) override;
  bool has(const std::string& name) const override;

  // Throws Error{kModel} naming tensors of the checkpoint that nobody asked for.
  void check_all_used() const;
  // Bytes that load() reads from the checkpoint.
  std::size_t file_bytes() const { return file_bytes_; }

  // Reads everything to the device of `backend`, many threads at a time, converted or quantised on
  // the way, and fills in what was declared. `progress` as in Uploader::finish.
  std::vector<Buffer> load(Backend& backend,
                           const std::function<void(std::size_t bytes)>& progress);

 private:
  void require(const std::string& name, const std::vector<std::int64_t>& shape) override;
  HostWeight host_weight(const Part& part, std::int64_t columns) const;

  const Checkpoint& checkpoint_;
  std::unordered_set<std::string> used_;
  std::size_t file_bytes_ = 0;
};

}  // namespace engine
