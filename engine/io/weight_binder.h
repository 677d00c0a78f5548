// From the names of a checkpoint's tensors to weights on a device.
//
// A model first declares what it wants: names, exact shapes, and where the result goes. Nothing is
// read then, so that missing, extra or misshapen tensors and the memory that all of it takes are
// known before the first byte of data. load() then reads everything, many threads at a time.
//
// Until load() has returned, what was declared has its shape and format but an address that nobody
// may touch, so that the session's memory can be worked out. Used by one thread. The checkpoint
// must outlive the binder; the memory returned by load() must outlive what it filled in.
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
  // One tensor of the checkpoint, (rows, columns) with the columns of the whole.
  struct Part {
    std::string name;
    std::int64_t rows;
  };

  // Everything is stored as `dtype`, a floating-point type.
  WeightBinder(const Checkpoint& checkpoint, DType dtype);

  // *into = the parts, one below the other. Throws Error{kModel} naming a tensor that is missing,
  // of another shape or not a floating-point type.
  void matrix(Weight* into, std::vector<Part> parts, std::int64_t columns);
  // *into = a vector of `size` elements.
  void vector(Tensor* into, const std::string& name, std::int64_t size);
  // *into = what *source is once it is loaded: a tied weight.
  void alias(Weight* into, const Weight* source);
  // A tensor that may be there and is not used.
  void ignore(const std::string& name);

  // Throws Error{kModel} naming tensors of the checkpoint that nobody asked for.
  void check_all_used() const;
  // Bytes that the declared weights take on the device.
  std::size_t device_bytes() const { return device_bytes_; }
  // Bytes that load() reads from the checkpoint.
  std::size_t file_bytes() const { return file_bytes_; }

  // Reads everything to the device of `backend` and fills in what was declared. `progress` as in
  // Uploader::finish.
  std::vector<Buffer> load(Backend& backend,
                           const std::function<void(std::size_t bytes)>& progress);

 private:
  struct Request {
    Weight* matrix = nullptr;  // one of the two is set
    Tensor* vector = nullptr;
    std::vector<Part> parts;
    std::int64_t columns = 0;
  };
  struct Alias {
    Weight* into;
    const Weight* source;
  };

  const CheckpointTensor& require(const std::string& name, const std::vector<std::int64_t>& shape);
  HostWeight host_weight(const CheckpointTensor& tensor, std::int64_t rows,
                         std::int64_t columns) const;

  const Checkpoint& checkpoint_;
  DType dtype_;
  std::vector<Request> requests_;
  std::vector<Alias> aliases_;
  std::unordered_set<std::string> used_;
  std::size_t device_bytes_ = 0;
  std::size_t file_bytes_ = 0;
};

}  // namespace engine
