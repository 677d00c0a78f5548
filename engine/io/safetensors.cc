#include "engine/io/safetensors.h"

#include <algorithm>
#include <array>
#include <limits>
#include <numeric>
#include <optional>
#include <tuple>
#include <utility>

#include "engine/io/json.h"
#include "kernels/core/check.h"

namespace engine {
namespace {

constexpr std::uint64_t kLengthBytes = 8;
constexpr std::uint64_t kMaxHeaderBytes = 100'000'000;
constexpr std::size_t kMaxTokenBytes = std::size_t{4} << 20;
constexpr std::size_t kMaxRank = 64;
constexpr std::size_t kPieceBytes = std::size_t{64} << 10;

struct DTypeRow {
  SafetensorsDType dtype;
  std::string_view name;
  int bits;
};

constexpr std::array<DTypeRow, 22> kDTypes = {{
    {SafetensorsDType::kBool, "BOOL", 8},
    {SafetensorsDType::kF4, "F4", 4},
    {SafetensorsDType::kF6E2M3, "F6_E2M3", 6},
    {SafetensorsDType::kF6E3M2, "F6_E3M2", 6},
    {SafetensorsDType::kU8, "U8", 8},
    {SafetensorsDType::kI8, "I8", 8},
    {SafetensorsDType::kF8E5M2, "F8_E5M2", 8},
    {SafetensorsDType::kF8E4M3, "F8_E4M3", 8},
    {SafetensorsDType::kF8E8M0, "F8_E8M0", 8},
    {SafetensorsDType::kF8E4M3Fnuz, "F8_E4M3FNUZ", 8},
    {SafetensorsDType::kF8E5M2Fnuz, "F8_E5M2FNUZ", 8},
    {SafetensorsDType::kI16, "I16", 16},
    {SafetensorsDType::kU16, "U16", 16},
    {SafetensorsDType::kF16, "F16", 16},
    {SafetensorsDType::kBF16, "BF16", 16},
    {SafetensorsDType::kI32, "I32", 32},
    {SafetensorsDType::kU32, "U32", 32},
    {SafetensorsDType::kF32, "F32", 32},
    {SafetensorsDType::kC64, "C64", 64},
    {SafetensorsDType::kF64, "F64", 64},
    {SafetensorsDType::kI64, "I64", 64},
    {SafetensorsDType::kU64, "U64", 64},
}};

const DTypeRow& dtype_row(SafetensorsDType dtype) {
  const auto index = static_cast<std::size_t>(dtype);
  ENGINE_REQUIRE(index < kDTypes.size() && kDTypes[index].dtype == dtype,
                 "no such safetensors dtype: ", index);
  return kDTypes[index];
}

// Collects the tensors of a header; offsets are still relative to the data. Each method is one
// transition of the state that says where in the fixed structure the document stands.
class HeaderEvents : public JsonEvents {
 public:
  void null() override {
    if (state_ == State::kMetadataValue) {  // the reference takes it for no metadata
      state_ = State::kTop;
    } else {
      scalar("null");
    }
  }
  void boolean(bool) override { scalar("a boolean"); }
  void negative(std::int64_t) override { scalar("a negative number"); }
  void real(double) override { scalar("a number that is no 64-bit unsigned integer"); }

  void non_negative(std::uint64_t value) override {
    if (state_ == State::kShape) {
      ENGINE_CHECK(tensor_.shape.size() < kMaxRank, ErrorKind::kModel, "tensor ",
                   quote(tensor_.name), ": more than ", kMaxRank, " dimensions");
      ENGINE_CHECK(value <= static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max()),
                   ErrorKind::kModel, "tensor ", quote(tensor_.name), ": a dimension of ", value);
      tensor_.shape.push_back(static_cast<std::int64_t>(value));
    } else if (state_ == State::kOffsets) {
      ENGINE_CHECK(offset_count_ < 2, ErrorKind::kModel, "tensor ", quote(tensor_.name),
                   ": data_offsets: expected 2 numbers, found more");
      offsets_[offset_count_++] = value;
    } else {
      scalar("a number");
    }
  }

  void string(std::string& value) override {
    if (state_ == State::kDType) {
      const auto row = std::find_if(kDTypes.begin(), kDTypes.end(),
                                    [&](const DTypeRow& r) { return r.name == value; });
      ENGINE_CHECK(row != kDTypes.end(), ErrorKind::kModel, "tensor ", quote(tensor_.name),
                   ": unknown dtype ", quote(value));
      tensor_.dtype = row->dtype;
      state_ = State::kTensor;
    } else if (state_ != State::kMetadata) {
      scalar("a string");
    }
  }

  void begin_object() override {
    switch (state_) {
      case State::kStart:
        state_ = State::kTop;
        break;
      case State::kMetadataValue:
        state_ = State::kMetadata;
        break;
      case State::kTensorValue:
        state_ = State::kTensor;
        break;
      case State::kSkip:
        ++skip_depth_;
        break;
      default:
        refuse("an object");
    }
  }

  void key(std::string& value) override {
    if (state_ == State::kTop) {
      if (value == "__metadata__") {
        ENGINE_CHECK(!std::exchange(has_metadata_, true), ErrorKind::kModel,
                     "the key \"__metadata__\" occurs twice");
        state_ = State::kMetadataValue;
      } else {
        tensor_ = SafetensorsTensor{std::move(value), {}, {}, 0, 0};
        has_dtype_ = has_shape_ = has_offsets_ = false;
        state_ = State::kTensorValue;
      }
    } else if (state_ == State::kMetadata) {
      metadata_keys_.push_back(std::move(value));
    } else if (state_ == State::kTensor) {
      field(value);
    }
  }

  void end_object() override {
    switch (state_) {
      case State::kTensor:
        finish_tensor();
        state_ = State::kTop;
        break;
      case State::kMetadata:
        check_metadata_keys();
        state_ = State::kTop;
        break;
      case State::kSkip:
        end_skipped();
        break;
      default:
        state_ = State::kStart;
    }
  }

  void begin_array() override {
    if (state_ == State::kShapeValue) {
      state_ = State::kShape;
    } else if (state_ == State::kOffsetsValue) {
      state_ = State::kOffsets;
      offset_count_ = 0;
    } else if (state_ == State::kSkip) {
      ++skip_depth_;
    } else {
      refuse("an array");
    }
  }

  void end_array() override {
    if (state_ == State::kSkip) {
      end_skipped();
      return;
    }
    ENGINE_CHECK(state_ != State::kOffsets || offset_count_ == 2, ErrorKind::kModel, "tensor ",
                 quote(tensor_.name), ": data_offsets: expected 2 numbers, found ", offset_count_);
    state_ = State::kTensor;
  }

  // The tensors in the order of the header.
  std::vector<SafetensorsTensor> take() { return std::move(tensors_); }

 private:
  enum class State {
    kStart,          // before the document, and after it
    kTop,            // in the outermost object
    kMetadataValue,  // after the key "__metadata__"
    kMetadata,       // in its object
    kTensorValue,    // after the name of a tensor
    kTensor,         // in its object
    kDType,          // after the key "dtype"
    kShapeValue,     // after the key "shape"
    kShape,          // in its array
    kOffsetsValue,   // after the key "data_offsets"
    kOffsets,        // in its array
    kSkip,           // in the value of a key that is not ours
  };

  void field(const std::string& key) {
    bool* seen = nullptr;
    if (key == "dtype") {
      seen = &has_dtype_;
      state_ = State::kDType;
    } else if (key == "shape") {
      seen = &has_shape_;
      state_ = State::kShapeValue;
    } else if (key == "data_offsets") {
      seen = &has_offsets_;
      state_ = State::kOffsetsValue;
    } else {
      state_ = State::kSkip;
      skip_depth_ = 0;
      return;
    }
    ENGINE_CHECK(!std::exchange(*seen, true), ErrorKind::kModel, "tensor ", quote(tensor_.name),
                 ": the key ", quote(key), " occurs twice");
  }

  void finish_tensor() {
    ENGINE_CHECK(has_dtype_ && has_shape_ && has_offsets_, ErrorKind::kModel, "tensor ",
                 quote(tensor_.name), ": expected dtype, shape and data_offsets, found no ",
                 !has_dtype_   ? "dtype"
                 : !has_shape_ ? "shape"
                               : "data_offsets");
    ENGINE_CHECK(offsets_[0] <= offsets_[1], ErrorKind::kModel, "tensor ", quote(tensor_.name),
                 ": data_offsets: begin ", offsets_[0], " is after end ", offsets_[1]);
    tensor_.offset = offsets_[0];
    tensor_.bytes = offsets_[1] - offsets_[0];
    tensor_.shape.shrink_to_fit();
    tensors_.push_back(std::move(tensor_));
  }

  void check_metadata_keys() {
    std::sort(metadata_keys_.begin(), metadata_keys_.end());
    const auto twin = std::adjacent_find(metadata_keys_.begin(), metadata_keys_.end());
    ENGINE_CHECK(twin == metadata_keys_.end(), ErrorKind::kModel, "__metadata__: the key ",
                 quote(*twin), " occurs twice");
    metadata_keys_ = {};
  }

  void end_skipped() {
    if (--skip_depth_ == 0) {
      state_ = State::kTensor;
    }
  }

  // A value that is neither an object, an array nor something the state expects.
  void scalar(const char* found) {
    if (state_ != State::kSkip) {
      refuse(found);
    }
    if (skip_depth_ == 0) {
      state_ = State::kTensor;
    }
  }

  [[noreturn]] void refuse(const char* found) const {
    const char* expected = "an object of tensors";
    std::string where;
    switch (state_) {
      case State::kMetadataValue:
      case State::kMetadata:
        where = "__metadata__: ";
        expected = state_ == State::kMetadata ? "strings" : "an object";
        break;
      case State::kTensorValue:
        expected = "an object";
        break;
      case State::kDType:
        expected = "a string as dtype";
        break;
      case State::kShapeValue:
      case State::kShape:
        expected = "an array of unsigned integers as shape";
        break;
      case State::kOffsetsValue:
      case State::kOffsets:
        expected = "two unsigned integers as data_offsets";
        break;
      default:
        break;
    }
    if (state_ != State::kStart && where.empty()) {
      where = concat("tensor ", quote(tensor_.name), ": ");
    }
    fail(ErrorKind::kModel, where, "expected ", expected, ", found ", found);
  }

  State state_ = State::kStart;
  int skip_depth_ = 0;
  SafetensorsTensor tensor_{};
  bool has_dtype_ = false;
  bool has_shape_ = false;
  bool has_offsets_ = false;
  bool has_metadata_ = false;
  std::array<std::uint64_t, 2> offsets_{};
  std::size_t offset_count_ = 0;
  std::vector<std::string> metadata_keys_;
  std::vector<SafetensorsTensor> tensors_;
};

// The bytes of [begin, end) of a file that are left when the blanks at both ends are taken off, as
// pieces. A header may be padded with any number of blanks; they count in no token this way.
class HeaderPieces {
 public:
  HeaderPieces(const File& file, std::uint64_t begin, std::uint64_t end)
      : file_(file), next_(begin), end_(end), piece_(std::min(end - begin, kPiece)) {
    while (next_ < end_ && blanks(next_, end_) == std::min(end_ - next_, kPiece)) {
      next_ += std::min(end_ - next_, kPiece);
    }
    while (next_ < end_) {
      const std::uint64_t start = end_ - std::min(end_ - next_, kPiece);
      if (blanks(start, end_) != end_ - start) {
        break;
      }
      end_ = start;
    }
  }

  std::string_view next() {
    const std::size_t bytes = read(next_, end_);
    next_ += bytes;
    return {piece_.data(), bytes};
  }

 private:
  static constexpr std::uint64_t kPiece = kPieceBytes;

  std::size_t read(std::uint64_t begin, std::uint64_t end) {
    const auto bytes = static_cast<std::size_t>(std::min(end - begin, kPiece));
    file_.read(begin, bytes, piece_.data());
    return bytes;
  }

  // How many of the first kPieceBytes bytes of [begin, end) are blank.
  std::uint64_t blanks(std::uint64_t begin, std::uint64_t end) {
    const std::size_t bytes = read(begin, end);
    return static_cast<std::uint64_t>(
        std::count_if(piece_.data(), piece_.data() + bytes,
                      [](char c) { return c == ' ' || c == '\t' || c == '\n' || c == '\r'; }));
  }

  const File& file_;
  std::uint64_t next_;
  std::uint64_t end_;
  std::vector<char> piece_;
};

std::uint64_t read_header_length(const File& file) {
  ENGINE_CHECK(file.size() >= kLengthBytes, ErrorKind::kModel, file.path(),
               ": expected a safetensors file of at least 8 bytes, found ", file.size());
  std::array<unsigned char, kLengthBytes> raw{};
  file.read(0, raw.size(), raw.data());
  std::uint64_t length = 0;
  for (std::size_t i = kLengthBytes; i-- > 0;) {
    length = (length << 8) | raw[i];
  }
  ENGINE_CHECK(length <= kMaxHeaderBytes, ErrorKind::kModel, file.path(),
               ": expected a safetensors header of at most ", kMaxHeaderBytes,
               " bytes, found a length of ", length);
  ENGINE_CHECK(length <= file.size() - kLengthBytes, ErrorKind::kModel, file.path(),
               ": expected a header of ", length, " bytes, found ", file.size() - kLengthBytes,
               " bytes after its length");
  return length;
}

// Bytes that dtype and shape give, or nothing when the arithmetic overflows or the bits are no
// whole number of bytes. Dimensions multiply from the left, as in the reference: a zero saves only
// what comes after it.
std::optional<std::uint64_t> tensor_bytes(const SafetensorsTensor& tensor) {
  std::uint64_t bits = 1;
  for (const std::int64_t dimension : tensor.shape) {
    if (__builtin_mul_overflow(bits, static_cast<std::uint64_t>(dimension), &bits)) {
      return std::nullopt;
    }
  }
  const auto element = static_cast<std::uint64_t>(safetensors_dtype_bits(tensor.dtype));
  if (__builtin_mul_overflow(bits, element, &bits) || bits % 8 != 0) {
    return std::nullopt;
  }
  return bits / 8;
}

// Sorts by place and checks sizes, contiguity and the end of the file; offsets become absolute.
void check_layout(const File& file, std::uint64_t data_start,
                  std::vector<SafetensorsTensor>& tensors) {
  const auto end_of = [](const SafetensorsTensor& t) { return t.offset + t.bytes; };
  std::sort(tensors.begin(), tensors.end(), [&](const auto& a, const auto& b) {
    return std::tuple(a.offset, end_of(a)) < std::tuple(b.offset, end_of(b));
  });
  std::uint64_t position = 0;
  for (SafetensorsTensor& tensor : tensors) {
    ENGINE_CHECK(tensor.offset == position, ErrorKind::kModel, file.path(), ": tensor ",
                 quote(tensor.name), ": expected its data at offset ", position, ", found ",
                 tensor.offset, tensor.offset > position ? " (a hole)" : " (an overlap)");
    const std::optional<std::uint64_t> bytes = tensor_bytes(tensor);
    ENGINE_CHECK(bytes.has_value(), ErrorKind::kModel, file.path(), ": tensor ", quote(tensor.name),
                 ": shape ", shape_text(tensor.shape), " of ", safetensors_dtype_name(tensor.dtype),
                 " is too large or no whole number of bytes");
    ENGINE_CHECK(tensor.bytes == *bytes, ErrorKind::kModel, file.path(), ": tensor ",
                 quote(tensor.name), ": expected ", *bytes, " bytes for shape ",
                 shape_text(tensor.shape), " of ", safetensors_dtype_name(tensor.dtype),
                 ", found data_offsets over ", tensor.bytes);
    position += tensor.bytes;
    tensor.offset += data_start;
  }
  const std::uint64_t found = file.size() - data_start;
  ENGINE_CHECK(position == found, ErrorKind::kModel, file.path(), ": expected ", position,
               " bytes of tensor data, found ", found);
}

void check_names(const File& file, const std::vector<SafetensorsTensor>& tensors) {
  std::vector<std::uint32_t> order(tensors.size());
  std::iota(order.begin(), order.end(), 0u);
  std::sort(order.begin(), order.end(),
            [&](std::uint32_t a, std::uint32_t b) { return tensors[a].name < tensors[b].name; });
  const auto twin = std::adjacent_find(
      order.begin(), order.end(),
      [&](std::uint32_t a, std::uint32_t b) { return tensors[a].name == tensors[b].name; });
  ENGINE_CHECK(twin == order.end(), ErrorKind::kModel, file.path(), ": tensor ",
               quote(tensors[*twin].name), " occurs twice");
}

}  // namespace

std::string_view safetensors_dtype_name(SafetensorsDType dtype) { return dtype_row(dtype).name; }

int safetensors_dtype_bits(SafetensorsDType dtype) { return dtype_row(dtype).bits; }

std::string shape_text(const std::vector<std::int64_t>& shape) {
  std::string text = "[";
  for (const std::int64_t dimension : shape) {
    text += text.size() > 1 ? ", " : "";
    text += std::to_string(dimension);
  }
  return text + "]";
}

SafetensorsFile::SafetensorsFile(const std::filesystem::path& path) : file_(path) {
  const std::uint64_t length = read_header_length(file_);
  const std::uint64_t data_start = kLengthBytes + length;
  HeaderPieces pieces(file_, kLengthBytes, data_start);
  HeaderEvents events;
  parse_json_events([&] { return pieces.next(); }, file_.path() + ": header", kMaxTokenBytes,
                    events);
  tensors_ = events.take();
  check_names(file_, tensors_);
  check_layout(file_, data_start, tensors_);
}

}  // namespace engine
