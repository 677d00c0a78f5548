#include "kernels/cpu/cpu_measure.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstring>
#include <string_view>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "kernels/core/check.h"
#include "kernels/core/philox.h"
#include "kernels/cpu/host_info.h"

namespace engine::cpu {
namespace {

constexpr std::size_t kPieceBytes = std::size_t{4} << 20;  // of one thread at a time
constexpr std::int64_t kRun = 1024;                        // elements converted at a time
constexpr std::size_t kBlockBytes = 256;                   // read at a time
static_assert(kRun % 4 == 0, "runs hold whole Philox blocks");

void require_dense(const char* what, const Tensor& tensor) {
  ENGINE_REQUIRE(tensor.device == Device{} && tensor.is_contiguous(), what, ": a tensor ",
                 tensor.shape, " on ", to_string(tensor.device), ", expected dense and on the CPU");
}

// The sum of the 8-byte words at `data`, whole blocks of them. Sixteen chains of additions keep
// more loads in flight than one would.
std::uint64_t sum_words(const std::byte* data, std::size_t bytes) {
  constexpr std::size_t kLanes = 16;
  static_assert(kBlockBytes % (kLanes * sizeof(std::uint64_t)) == 0);
  std::uint64_t lanes[kLanes] = {};
  for (std::size_t at = 0; at < bytes; at += sizeof(lanes)) {
    std::uint64_t words[kLanes];
    std::memcpy(words, data + at, sizeof(words));
    for (std::size_t i = 0; i < kLanes; ++i) lanes[i] += words[i];
  }
  std::uint64_t sum = 0;
  for (const std::uint64_t lane : lanes) sum += lane;
  return sum;
}

#if defined(__x86_64__)
// The same with 64-byte loads, which take the memory a fifth further than 16-byte ones.
[[gnu::target("avx512f")]] std::uint64_t sum_words_avx512(const std::byte* data,
                                                          std::size_t bytes) {
  __m512i sums[4] = {};
  for (std::size_t at = 0; at < bytes; at += kBlockBytes) {
    for (std::size_t i = 0; i < 4; ++i) {
      sums[i] = _mm512_add_epi64(sums[i], _mm512_loadu_si512(data + at + 64 * i));
    }
  }
  std::uint64_t lanes[32];
  std::memcpy(lanes, sums, sizeof(lanes));
  std::uint64_t sum = 0;
  for (const std::uint64_t lane : lanes) sum += lane;
  return sum;
}
#endif

// Reads every byte, with the instructions that `kernels` were chosen for.
std::uint64_t sum_bytes(const Kernels& kernels, const std::byte* data, std::size_t bytes) {
  const std::size_t whole = bytes / kBlockBytes * kBlockBytes;
  std::uint64_t sum = 0;
  for (std::size_t at = whole; at < bytes; ++at) sum += static_cast<std::uint64_t>(data[at]);
#if defined(__x86_64__)
  if (std::string_view(kernels.name).starts_with("avx512")) {
    return sum + sum_words_avx512(data, whole);
  }
#endif
  return sum + sum_words(data, whole);
}

class CpuMeasure final : public Measure {
 public:
  CpuMeasure(Backend& backend, const Context& context) : backend_(backend), context_(context) {}

  std::size_t cache_bytes() const override { return last_level_cache_bytes(); }

  void flush_cache() override {
    if (flush_.bytes() == 0) {
      flush_ = backend_.allocate(2 * cache_bytes());
      std::memset(flush_.data(), 1, flush_.bytes());  // pages of its own, not the shared zero page
    }
    read_bytes(static_cast<const std::byte*>(flush_.data()), flush_.bytes());
  }

  // Ops have finished when their calls return.
  double time(const std::function<void()>& issue) override {
    const auto start = std::chrono::steady_clock::now();
    issue();
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  }

  void read(const Tensor& source) override {
    require_dense("read", source);
    read_bytes(source.as<const std::byte>(), source.bytes());
  }

  void copy(const Tensor& destination, const Tensor& source) override {
    require_dense("copy", destination);
    require_dense("copy", source);
    ENGINE_REQUIRE(destination.bytes() == source.bytes(), "copy: ", source.bytes(), " bytes to ",
                   destination.bytes());
    auto* to = destination.as<std::byte>();
    const auto* from = source.as<const std::byte>();
    for_pieces(source.bytes(),
               [&](std::size_t at, std::size_t bytes) { std::memcpy(to + at, from + at, bytes); });
  }

  void fill_normal(const Tensor& destination, float sigma, RandomSource source) override {
    for_runs("fill_normal", destination, [&](std::int64_t first, float* run) {
      for (std::int64_t i = 0; i < kRun; i += 4) {
        const Normal4 four =
            normal4(source.seed, source.stream, static_cast<std::uint64_t>(first + i) / 4);
        for (std::int64_t j = 0; j < 4; ++j) run[i + j] = sigma * four.value[j];
      }
    });
  }

  void fill_uniform(const Tensor& destination, RandomSource source) override {
    for_runs("fill_uniform", destination, [&](std::int64_t first, float* run) {
      for (std::int64_t i = 0; i < kRun; i += 4) {
        const Uniform4 four =
            uniform4(source.seed, source.stream, static_cast<std::uint64_t>(first + i) / 4);
        std::copy_n(four.value, 4, run + i);
      }
    });
  }

  void fill_constant(const Tensor& destination, float value) override {
    for_runs("fill_constant", destination,
             [&](std::int64_t, float* run) { std::fill_n(run, kRun, value); });
  }

  // The clocks and sensors of a CPU are not this process's to read on most machines.
  Telemetry telemetry() override { return {}; }
  std::string driver() override { return {}; }

 private:
  // body(offset, bytes) for pieces that cover [0, bytes).
  template <typename Body>
  void for_pieces(std::size_t bytes, const Body& body) {
    const auto pieces = static_cast<std::int64_t>((bytes + kPieceBytes - 1) / kPieceBytes);
    parallel_for(context_, pieces, kPieceBytes / 8, [&](std::int64_t piece, int) {
      const std::size_t at = static_cast<std::size_t>(piece) * kPieceBytes;
      body(at, std::min(kPieceBytes, bytes - at));
    });
  }

  void read_bytes(const std::byte* data, std::size_t bytes) {
    std::atomic<std::uint64_t> total{0};
    for_pieces(bytes, [&](std::size_t at, std::size_t size) {
      total.fetch_add(sum_bytes(*context_.kernels, data + at, size), std::memory_order_relaxed);
    });
    checksum_ = total.load();
  }

  // body(first, run) makes the elements [first, first + kRun), which are then rounded and stored.
  template <typename Body>
  void for_runs(const char* what, const Tensor& destination, const Body& body) {
    require_dense(what, destination);
    ENGINE_REQUIRE(is_float(destination.dtype), what, ": a tensor of ", destination.dtype);
    const std::int64_t count = destination.numel();
    const auto narrow = context_.kernels->from_float[type_index(destination.dtype)];
    const std::size_t size = dtype_size(destination.dtype);
    parallel_for(context_, ceil_div(count, kRun), kRun, [&](std::int64_t piece, int) {
      const std::int64_t first = piece * kRun;
      float run[kRun];
      body(first, run);
      narrow(run, destination.as<std::byte>() + static_cast<std::size_t>(first) * size,
             std::min(kRun, count - first));
    });
  }

  Backend& backend_;
  const Context& context_;
  Buffer flush_;
  volatile std::uint64_t checksum_ = 0;  // of the bytes read last, so that they are read
};

}  // namespace

std::unique_ptr<Measure> make_measure(Backend& backend, const Context& context) {
  return std::make_unique<CpuMeasure>(backend, context);
}

}  // namespace engine::cpu
