#include "engine/io/weight_binder.h"

#include <utility>

#include "kernels/core/check.h"

namespace engine {
namespace {

// Where weights that are not loaded yet pretend to live.
void* const kNotLoaded = reinterpret_cast<void*>(Workspace::kAlignment);

DType to_dtype(const CheckpointTensor& tensor, const std::string& path) {
  switch (tensor.dtype) {
    case SafetensorsDType::kF32:
      return DType::kF32;
    case SafetensorsDType::kF16:
      return DType::kF16;
    case SafetensorsDType::kBF16:
      return DType::kBF16;
    default:
      fail(ErrorKind::kUnsupported, path, ": tensor ", tensor.name, ": expected F32, F16 or BF16, ",
           "found ", safetensors_dtype_name(tensor.dtype));
  }
}

}  // namespace

std::int64_t WeightBinder::Part::total_rows() const {
  return stack > 0 ? checked_mul(stack, rows, name.c_str()) : rows;
}

std::vector<std::int64_t> WeightBinder::Part::shape(std::int64_t columns) const {
  if (stack > 0) return {stack, rows, columns};
  return {rows, columns};
}

WeightBinder::WeightBinder(DType dtype, QuantFormat linear) : dtype_(dtype), linear_(linear) {
  ENGINE_REQUIRE(is_float(dtype), "weights stored as ", dtype);
}

void WeightBinder::declare(Weight* into, std::vector<Part> parts, std::int64_t columns,
                           QuantFormat format) {
  std::int64_t rows = 0;
  for (const Part& part : parts) {
    require(part.name, part.shape(columns));
    rows = checked_add(rows, part.total_rows(), part.name.c_str());
  }
  *into = {.data = kNotLoaded,
           .scales = format_info(format).scale_bytes > 0 ? kNotLoaded : nullptr,
           .format = format,
           .rows = rows,
           .columns = columns,
           .device = {}};
  device_bytes_ = checked_add(device_bytes_, into->bytes(), "weights");
  requests_.push_back({.matrix = into,
                       .vector = nullptr,
                       .parts = std::move(parts),
                       .columns = columns,
                       .format = format});
}

void WeightBinder::linear(Weight* into, std::vector<Part> parts, std::int64_t columns) {
  declare(into, std::move(parts), columns, linear_);
}

void WeightBinder::matrix(Weight* into, std::vector<Part> parts, std::int64_t columns) {
  declare(into, std::move(parts), columns, plain_format(dtype_));
}

void WeightBinder::tied_linear(Weight* into, const Weight* table, Part part, std::int64_t columns) {
  if (linear_ != table->format) {
    linear(into, {std::move(part)}, columns);
    return;
  }
  *into = *table;
  aliases_.push_back({into, table});
}

void WeightBinder::vector(Tensor* into, const std::string& name, std::int64_t size) {
  require(name, {size});
  *into = Tensor::contiguous(kNotLoaded, dtype_, {}, {size});
  device_bytes_ = checked_add(device_bytes_, into->bytes(), "weights");
  requests_.push_back({.matrix = nullptr,
                       .vector = into,
                       .parts = {{.name = name, .rows = 1}},
                       .columns = size,
                       .format = plain_format(dtype_)});
}

void WeightBinder::fulfil(const Request& request, const Weight& weight) const {
  if (request.matrix != nullptr) {
    *request.matrix = weight;
  } else {
    // A vector is a matrix of one row; ops take it as a tensor, which they only read.
    *request.vector = Tensor::contiguous(const_cast<void*>(weight.data), dtype_, weight.device,
                                         {request.columns});
  }
}

void WeightBinder::resolve_aliases() const {
  for (const Alias& alias : aliases_) *alias.into = *alias.source;
}

CheckpointBinder::CheckpointBinder(const Checkpoint& checkpoint, DType dtype, QuantFormat linear)
    : WeightBinder(dtype, linear), checkpoint_(checkpoint) {}

// The checks that every use of a tensor needs.
void CheckpointBinder::require(const std::string& name, const std::vector<std::int64_t>& shape) {
  const CheckpointTensor* tensor = checkpoint_.find(name);
  ENGINE_CHECK(tensor != nullptr, ErrorKind::kModel, "tensor ", name,
               " is missing from the checkpoint; expected shape ", shape_text(shape));
  const std::string& path = checkpoint_.path_of(*tensor);
  ENGINE_CHECK(tensor->shape == shape, ErrorKind::kModel, path, ": tensor ", name,
               ": expected shape ", shape_text(shape), ", found ", shape_text(tensor->shape));
  static_cast<void>(to_dtype(*tensor, path));
  used_.insert(name);
  file_bytes_ += tensor->bytes;
}

void CheckpointBinder::ignore(const std::string& name) { used_.insert(name); }

bool CheckpointBinder::has(const std::string& name) const {
  return checkpoint_.find(name) != nullptr;
}

void CheckpointBinder::check_all_used() const {
  std::string extra;
  std::size_t count = 0;
  for (const CheckpointTensor& tensor : checkpoint_.tensors()) {
    if (used_.contains(tensor.name)) continue;
    if (++count <= 3) extra += (extra.empty() ? "" : ", ") + tensor.name;
  }
  ENGINE_CHECK(count == 0, ErrorKind::kModel, "the checkpoint has ", count,
               " tensors that this model does not know: ", extra, count > 3 ? ", …" : "");
}

// One tensor as the uploader pulls its rows.
HostWeight CheckpointBinder::host_weight(const Part& part, std::int64_t columns) const {
  const CheckpointTensor* source = checkpoint_.find(part.name);
  const DType dtype = to_dtype(*source, checkpoint_.path_of(*source));
  const std::size_t row_bytes = static_cast<std::size_t>(columns) * dtype_size(dtype);
  const Checkpoint* checkpoint = &checkpoint_;
  return {.name = source->name,
          .dtype = dtype,
          .rows = part.total_rows(),
          .columns = columns,
          .read = [=](std::int64_t row, std::int64_t count, std::byte* destination) {
            checkpoint->read(*source, static_cast<std::uint64_t>(row) * row_bytes,
                             static_cast<std::size_t>(count) * row_bytes, destination);
          }};
}

std::vector<Buffer> CheckpointBinder::load(Backend& backend,
                                           const std::function<void(std::size_t bytes)>& progress) {
  const std::unique_ptr<Uploader> uploader = backend.uploader();
  for (const Request& request : requests()) {
    std::vector<HostWeight> parts;
    for (const Part& part : request.parts) {
      parts.push_back(host_weight(part, request.columns));
    }
    fulfil(request, uploader->add(std::move(parts), request.format));
  }
  resolve_aliases();
  return uploader->finish(progress);
}

}  // namespace engine
