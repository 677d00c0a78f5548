// The contract of Backend beside its ops: memory, copies, uploads, readbacks, errors.
#include <atomic>
#include <cstring>
#include <memory>
#include <string>

#include "kernels/cases/cases.h"
#include "tests/support/backends.h"
#include "tests/support/closeness.h"
#include "tests/support/guarded.h"
#include "tests/support/weights.h"

namespace engine::test {
namespace {

template <typename Body>
void expect_error(ErrorKind kind, const std::string& what, Body&& body) {
  CAPTURE(what);
  try {
    body();
    FAIL_CHECK("nothing was thrown");
  } catch (const Error& error) {
    CHECK_MESSAGE(error.kind() == kind, error.what());
  }
}

TEST_CASE("backend: memory is aligned, copied both ways and counted") {
  on_every_backend([](Backend& backend) {
    const std::size_t peak_before = backend.peak_bytes();
    std::vector<std::uint8_t> out(70000), in(70000);
    Random random(1);
    for (auto& byte : out) byte = static_cast<std::uint8_t>(random.bits());
    {
      const Buffer a = backend.allocate(1), b = backend.allocate(70000), none = backend.allocate(0);
      for (const Buffer* buffer : {&a, &b}) {
        CHECK(reinterpret_cast<std::uintptr_t>(buffer->data()) % Workspace::kAlignment == 0);
        CHECK(buffer->device() == backend.device());
      }
      CHECK(a.bytes() == 1);
      CHECK(none.bytes() == 0);
      const Tensor whole = b.tensor(DType::kU8, {70000});
      backend.write(whole, out.data());
      backend.read(in.data(), whole);
      CHECK(in == out);
      backend.fill_zero(whole.slice(0, 100, 1000));
      backend.read(in.data(), whole);
      std::fill(out.begin() + 100, out.begin() + 1100, std::uint8_t{0});
      CHECK(in == out);
      backend.read(nullptr, whole.slice(0, 0, 0));
    }
    const std::size_t peak = backend.peak_bytes();
    CHECK(peak >= std::max<std::size_t>(peak_before, 70001));
    const Buffer again = backend.allocate(1000);
    CHECK(backend.peak_bytes() == peak);  // what was freed does not count twice
    CHECK(backend.memory().free <= backend.memory().total);
    CHECK(backend.memory().total > 0);
  });
}

TEST_CASE("backend: a gap between rows is refused by copies") {
  on_every_backend([](Backend& backend) {
    const Buffer buffer = backend.allocate(400);
    const Tensor gaps = buffer.tensor(DType::kF32, {10, 10}).slice(1, 0, 5);
    float host[50] = {};
    expect_error(ErrorKind::kInternal, "write", [&] { backend.write(gaps, host); });
    expect_error(ErrorKind::kInternal, "read", [&] { backend.read(host, gaps); });
    expect_error(ErrorKind::kInternal, "fill_zero", [&] { backend.fill_zero(gaps); });
  });
}

TEST_CASE("backend: more memory than there is gives kMemory with need and free bytes") {
  on_every_backend([](Backend& backend) {
    const std::size_t need = backend.memory().total * 4;
    try {
      backend.allocate(need);
      FAIL_CHECK("allocated");
    } catch (const Error& error) {
      CHECK(error.kind() == ErrorKind::kMemory);
      CHECK(std::string(error.what()).find(std::to_string(need)) != std::string::npos);
      CHECK(std::string(error.what()).find("free") != std::string::npos);
    }
    CHECK(backend.allocate(100).bytes() == 100);
  });
}

// The rows of an uploaded weight as floats, read back by the op that copies rows.
Values rows_of(Backend& backend, const Weight& weight) {
  Values ids;
  for (std::int64_t i = 0; i < weight.rows; ++i) ids.push_back(static_cast<double>(i));
  const Guarded ids_tensor(backend, DType::kI32, {weight.rows}, ids);
  Guarded out(backend, DType::kF32, {weight.rows, weight.columns});
  backend.ops().embed({.out = out, .table = weight, .ids = ids_tensor});
  return out.get("rows of a weight");
}

TEST_CASE("backend: uploads convert every type to every format, rounding to nearest") {
  on_every_backend([](Backend& backend) {
    for (const DType from : cases::kFloatTypes) {
      for (const DType to : cases::kFloatTypes) {
        // Small enough for f16, with subnormals and ties of the narrower types among them.
        Values values = uniform(37 * 43, 3, from, -100.0, 100.0);
        for (std::size_t i = 0; i < 200; ++i) {
          values[i] = reference::round_to(from, std::ldexp(values[i], -22));
        }
        for (std::size_t i = 200; i < 300; ++i) {
          values[i] = reference::round_to(from, 1.0 + std::ldexp(static_cast<double>(i), -9));
        }
        const UploadedWeight weight(backend, {matrix_of(from, 37, 43, values)}, plain_format(to));
        CHECK(weight.weight().format == plain_format(to));
        CHECK(weight.weight().device == backend.device());
        for (double& value : values) value = reference::round_to(to, value);
        check_equal(concat("upload ", from, " as ", to), rows_of(backend, weight), values);
      }
    }
  });
}

TEST_CASE("backend: uploads of many pieces arrive whole and report their progress") {
  on_every_backend([](Backend& backend) {
    const std::unique_ptr<Uploader> uploader = backend.uploader();
    // About 50 MiB in several weights; one is f32 stored as bf16, one a row wider than a piece.
    std::vector<HostMatrix> matrices;
    std::vector<Weight> weights;
    std::size_t total = 0;
    const std::int64_t shapes[][2] = {{3001, 2048}, {1, 43}, {997, 4096}, {2, 4'500'000}};
    for (const auto& shape : shapes) {
      const DType dtype = shape[0] == 997 ? DType::kF32 : DType::kBF16;
      matrices.push_back(random_matrix(dtype, shape[0], shape[1], matrices.size()));
      weights.push_back(uploader->add({matrices.back().source()}, QuantFormat::kBF16));
      total += matrices.back().bytes->size();
    }
    std::size_t last = 0;
    bool rises = true;
    const std::vector<Buffer> memory = uploader->finish([&](std::size_t bytes) {
      rises = rises && bytes >= last;
      last = bytes;
    });
    CHECK(rises);
    CHECK(last == total);
    CHECK(memory.size() >= 1);
    for (std::size_t w = 0; w < weights.size(); ++w) {
      // A few rows of each; all their elements.
      const std::int64_t rows = weights[w].rows;
      std::vector<std::int64_t> some = {rows - 1};
      if (rows > 2) some = {0, rows / 3, rows / 2, rows - 1};
      const auto count = static_cast<std::int64_t>(some.size());
      const Guarded ids(backend, DType::kI32, {count}, Values(some.begin(), some.end()));
      Guarded out(backend, DType::kF32, {count, weights[w].columns});
      backend.ops().embed({.out = out, .table = weights[w], .ids = ids});
      Values expected;
      for (const std::int64_t row : some) matrices[w].append_row(row, expected);
      for (double& value : expected) value = reference::round_to(DType::kBF16, value);
      check_equal(concat("weight ", w), out.get("rows"), expected);
    }
  });
}

TEST_CASE("backend: an upload's errors surface and leave the backend usable") {
  on_every_backend([](Backend& backend) {
    const HostMatrix good = random_matrix(DType::kBF16, 5000, 1024, 5);
    HostWeight failing = good.source();
    failing.read = [](std::int64_t row, std::int64_t, std::byte*) {
      if (row > 0) fail(ErrorKind::kIo, "the disk is gone");
    };
    {
      const std::unique_ptr<Uploader> uploader = backend.uploader();
      uploader->add({good.source()}, QuantFormat::kBF16);
      uploader->add({failing}, QuantFormat::kBF16);
      expect_error(ErrorKind::kIo, "a reader fails", [&] { uploader->finish([](std::size_t) {}); });
    }
    {
      struct Abandon {};
      const std::unique_ptr<Uploader> uploader = backend.uploader();
      uploader->add({good.source()}, QuantFormat::kBF16);
      CHECK_THROWS_AS(uploader->finish([](std::size_t) { throw Abandon{}; }), Abandon);
    }
    {
      const std::unique_ptr<Uploader> uploader = backend.uploader();
      HostWeight wide = random_matrix(DType::kBF16, 2, 1025, 5).source();
      expect_error(ErrorKind::kInternal, "widths differ", [&] {
        uploader->add({good.source(), wide}, QuantFormat::kBF16);
      });
      expect_error(ErrorKind::kInternal, "no parts",
                   [&] { uploader->add({}, QuantFormat::kBF16); });
    }
    const UploadedWeight weight(backend, random_matrix(DType::kF16, 9, 7, 6));
    check_equal("afterwards", rows_of(backend, weight),
                random_matrix(DType::kF16, 9, 7, 6).values());
  });
}

TEST_CASE("backend: readbacks come in order, each as of its push") {
  on_every_backend([](Backend& backend) {
    Guarded counters(backend, DType::kF32, {3, 2}, Values{0, 0, 0, 0, 0, 10});
    const Guarded one(backend, DType::kF32, {1, 2}, Values{1, 2});
    const std::unique_ptr<Readback> readback = backend.readback(8, 3);
    float found[2];
    for (int round = 0; round < 4; ++round) {
      const auto base = static_cast<float>(3 * round);
      const auto counter = [&](int i) { return counters.tensor().slice(0, i, 1); };
      for (int i = 0; i < 3; ++i) {
        backend.ops().add({.out = counter(i), .a = counter((i + 2) % 3), .b = one});
        readback->push(counter(i));
      }
      expect_error(ErrorKind::kInternal, "a fourth of three", [&] { readback->push(counter(0)); });
      for (int i = 1; i <= 3; ++i) {
        readback->pop(found);
        CHECK(found[0] == base + static_cast<float>(i));
        CHECK(found[1] == 10.0f + 2.0f * (base + static_cast<float>(i)));
      }
      expect_error(ErrorKind::kInternal, "none is queued", [&] { readback->pop(found); });
    }
    expect_error(ErrorKind::kInternal, "more than it was made for", [&] {
      const Guarded wide(backend, DType::kF32, {1, 3}, Values{1, 2, 3});
      readback->push(wide);
    });
    // A smaller result than it was made for.
    readback->push(counters.tensor().slice(0, 2, 1).slice(1, 1, 1));
    readback->pop(found);
    CHECK(found[0] == 34.0f);
  });
}

TEST_CASE("backend: workspace_bytes measures a step without running it") {
  on_every_backend([](Backend& backend) {
    Guarded a(backend, DType::kF32, {4, 64}, Values(256, 1.0));
    const std::size_t bytes = backend.workspace_bytes([&](Ops& ops, Workspace ws) {
      const Tensor first = ws.take(DType::kF32, {4, 64});  // 1024
      ops.add({.out = a, .a = a, .b = first});
      const auto inner = [&](Workspace scope) { scope.take(DType::kU8, {300}); };  // 512
      inner(ws);
      inner(ws);
    });
    CHECK(bytes == 1536);
    check_equal("nothing ran", a.get("a"), Values(256, 1.0));
    CHECK(backend.workspace_bytes([](Ops&, Workspace) {}) == 0);
  });
}

TEST_CASE("backend: says what it is") {
  on_every_backend([](Backend& backend) { CHECK(backend.description().size() > 5); });
  std::string problem;
  const std::vector<DeviceInfo> devices = list_devices(&problem);
  REQUIRE(!devices.empty());
  CHECK(devices[0].device == Device{});
  CHECK(devices[0].problem.empty());
  CHECK(devices[0].memory.total > 0);
  CHECK((devices.size() > 1 || !problem.empty()));
  CHECK(default_thread_count() >= 1);
  if (!skipped_isa().empty()) return;
  const std::string isa = cpu_isa_name();
  CHECK((isa == "avx512" || isa == "avx2" || isa == "portable"));
  if (const std::string forced = environment("ENGINE_ISA"); !forced.empty()) CHECK(isa == forced);
}

TEST_CASE("backend: a device that is not there is refused with kDevice") {
  expect_error(ErrorKind::kDevice, "cuda:99", [] { make_backend({DeviceKind::kCuda, 99}, {}); });
  std::string problem;
  if (list_devices(&problem).size() == 1) {
    expect_error(ErrorKind::kDevice, "cuda:0", [] { make_backend({DeviceKind::kCuda, 0}, {}); });
  }
}

TEST_CASE("backend: an interrupt stops a CPU op, and the next one runs") {
  if (!skipped_isa().empty()) return;
  std::atomic<bool> interrupt{false};
  BackendOptions options;
  options.interrupt = &interrupt;
  const std::unique_ptr<Backend> backend = make_backend({DeviceKind::kCpu, 0}, options);
  const UploadedWeight weight(*backend, random_matrix(DType::kF32, 997, 344, 1));
  const Guarded x(*backend, DType::kF32, {5, 344}, uniform(5 * 344, 2, DType::kF32));
  Guarded out(*backend, DType::kF32, {5, 997});
  const auto linear = [&] {
    run_linear(*backend, {.out = out, .x = x, .weight = weight, .residual = {}});
  };
  linear();
  const Values before = out.get("out");
  interrupt = true;
  CHECK_THROWS_AS(linear(), Interrupted);
  interrupt = false;
  linear();
  check_equal("afterwards", out.get("out"), before);
}

TEST_CASE("backend: any number of CPU threads gives the same bits") {
  if (!skipped_isa().empty()) return;
  Values results[3];
  for (const int threads : {1, 2, 5}) {
    BackendOptions options;
    options.threads = threads;
    const std::unique_ptr<Backend> backend = make_backend({DeviceKind::kCpu, 0}, options);
    Values& all = results[threads / 2];
    for (const DType dtype : cases::kFloatTypes) {
      for (const std::int64_t tokens : {1, 9, 40}) {
        const UploadedWeight weight(*backend, random_matrix(dtype, 997, 344, 1));
        const Guarded x(*backend, dtype, {tokens, 344}, uniform(tokens * 344, 2, dtype));
        Guarded out(*backend, dtype, {tokens, 997});
        run_linear(*backend, {.out = out, .x = x, .weight = weight, .residual = {}});
        for (const double value : out.get("linear")) all.push_back(value);

        const std::int64_t capacity = 700;
        const Guarded q(*backend, dtype, {tokens, 4, 64}, uniform(tokens * 256, 3, dtype));
        const Guarded k(*backend, dtype, {2, capacity, 64}, uniform(2 * capacity * 64, 4, dtype));
        Guarded attended(*backend, dtype, {tokens, 4, 64});
        const Guarded position(*backend, DType::kI32, {1}, Values{600});
        const AttentionCall call{.out = attended,
                                 .q = q,
                                 .k_cache = k,
                                 .v_cache = k,
                                 .position = position,
                                 .bound = 650,
                                 .scale = 0.125f,
                                 .lse = {}};
        GuardedWorkspace scratch(*backend,
                                 [&](Ops& ops, Workspace ws) { ops.attention(call, ws); });
        backend->ops().attention(call, scratch.workspace());
        for (const double value : attended.get("attention")) all.push_back(value);
      }
    }
  }
  check_equal("2 threads against 1", results[1], results[0]);
  check_equal("5 threads against 1", results[2], results[0]);
}

}  // namespace
}  // namespace engine::test
