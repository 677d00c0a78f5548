// Shapes, tensors, workspaces, checks and the Philox generator.
#include <doctest/doctest.h>

#include <cstddef>
#include <limits>
#include <set>
#include <string>
#include <vector>

#include "kernels/core/buffer.h"
#include "kernels/core/check.h"
#include "kernels/core/philox.h"
#include "kernels/core/tensor.h"
#include "kernels/core/workspace.h"

namespace engine::test {
namespace {

template <typename Body>
ErrorKind kind_of(Body&& body) {
  try {
    body();
  } catch (const Error& error) {
    CHECK(std::string(error.what()).find('\n') == std::string::npos);
    return error.kind();
  }
  FAIL("nothing was thrown");
  return ErrorKind::kInternal;
}

TEST_CASE("Shape counts its elements") {
  CHECK(Shape{}.numel() == 1);
  CHECK(Shape{7}.numel() == 7);
  CHECK(Shape{2, 3, 4, 5}.numel() == 120);
  CHECK(Shape{2, 0, 4}.numel() == 0);
  CHECK(Shape{2, 3} != Shape{3, 2});
  CHECK(Shape{2} != Shape{2, 1});
  CHECK(concat(Shape{2, 3}) == "(2, 3)");
  CHECK(concat(Shape{}) == "()");
}

TEST_CASE("Shape refuses overflow, negative extents and a fifth axis") {
  constexpr std::int64_t kHuge = std::int64_t{1} << 40;
  CHECK(kind_of([] { static_cast<void>(Shape{kHuge, kHuge}.numel()); }) == ErrorKind::kModel);
  CHECK(kind_of([] {
          Tensor::contiguous(nullptr, DType::kU8, {}, {kHuge, kHuge});
        }) == ErrorKind::kModel);
  CHECK(kind_of([] { Shape{2, -1}; }) == ErrorKind::kInternal);
  CHECK(kind_of([] { Shape{1, 1, 1, 1, 1}; }) == ErrorKind::kInternal);
}

TEST_CASE("checked arithmetic throws where it would wrap") {
  constexpr std::uint64_t kMost = std::numeric_limits<std::uint64_t>::max();
  CHECK(checked_mul(kMost, std::uint64_t{1}, "x") == kMost);
  CHECK(checked_add(kMost - 1, std::uint64_t{1}, "x") == kMost);
  CHECK(kind_of([] { checked_mul(kMost, std::uint64_t{2}, "x"); }) == ErrorKind::kModel);
  CHECK(kind_of([] { checked_add(kMost, std::uint64_t{1}, "x"); }) == ErrorKind::kModel);
  CHECK(checked_mul(std::int64_t{-4}, std::int64_t{5}, "x") == -20);
  try {
    checked_mul(kMost, std::uint64_t{3}, "bytes of tensor q");
  } catch (const Error& error) {
    CHECK(std::string(error.what()).find("bytes of tensor q") != std::string::npos);
  }
}

// Every element of `view`, read through its strides.
std::vector<float> elements(const Tensor& view) {
  std::vector<float> out;
  for (std::int64_t i = 0; i < view.numel(); ++i) {
    std::int64_t rest = i, offset = 0;
    for (int axis = view.rank() - 1; axis >= 0; --axis) {
      offset += rest % view.size(axis) * view.stride(axis);
      rest /= view.size(axis);
    }
    out.push_back(view.as<float>()[offset]);
  }
  return out;
}

TEST_CASE("Tensor slices along any axis") {
  std::vector<float> data(24);
  for (std::size_t i = 0; i < data.size(); ++i) data[i] = static_cast<float>(i);
  const Tensor t = Tensor::contiguous(data.data(), DType::kF32, {}, {2, 3, 4});
  CHECK(t.is_contiguous());
  CHECK(t.bytes() == 96);
  CHECK(elements(t.slice(0, 1, 1)) ==
        std::vector<float>{12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23});
  CHECK(elements(t.slice(1, 1, 1)) == std::vector<float>{4, 5, 6, 7, 16, 17, 18, 19});
  const Tensor inner = t.slice(2, 1, 2);
  CHECK(elements(inner) == std::vector<float>{1, 2, 5, 6, 9, 10, 13, 14, 17, 18, 21, 22});
  CHECK_FALSE(inner.is_contiguous());
  CHECK(inner.has_dense_rows());
  CHECK(elements(inner.slice(0, 1, 1).slice(1, 2, 1)) == std::vector<float>{21, 22});
  CHECK(t.slice(0, 0, 1).is_contiguous());
  CHECK(t.slice(1, 2, 0).numel() == 0);
  CHECK(t.slice(1, 3, 0).numel() == 0);
}

TEST_CASE("Tensor refuses slices outside it") {
  const Tensor t = Tensor::contiguous(nullptr, DType::kF32, {}, {2, 3});
  CHECK(kind_of([&] { t.slice(1, 2, 2); }) == ErrorKind::kInternal);
  CHECK(kind_of([&] { t.slice(1, -1, 2); }) == ErrorKind::kInternal);
  CHECK(kind_of([&] { t.slice(1, 0, -1); }) == ErrorKind::kInternal);
  CHECK(kind_of([&] { t.slice(2, 0, 1); }) == ErrorKind::kInternal);
  CHECK(kind_of([&] { t.slice(-1, 0, 1); }) == ErrorKind::kInternal);
}

TEST_CASE("Tensor splits an axis without moving elements") {
  std::vector<float> data(24);
  for (std::size_t i = 0; i < data.size(); ++i) data[i] = static_cast<float>(i);
  const Tensor t = Tensor::contiguous(data.data(), DType::kF32, {}, {2, 12});
  const Tensor heads = t.split(1, 4);
  CHECK(heads.shape == Shape{2, 3, 4});
  CHECK(elements(heads) == elements(t));
  const Tensor part = t.slice(1, 4, 8).split(1, 4);  // of a strided view
  CHECK(part.shape == Shape{2, 2, 4});
  CHECK(elements(part) ==
        std::vector<float>{4, 5, 6, 7, 8, 9, 10, 11, 16, 17, 18, 19, 20, 21, 22, 23});
  CHECK(t.split(0, 1).shape == Shape{2, 1, 12});
  CHECK(Tensor::contiguous(data.data(), DType::kF32, {}, {24}).split(0, 6).shape == Shape{4, 6});
  const Tensor four = heads.split(0, 2);
  CHECK(four.shape == Shape{1, 2, 3, 4});
  CHECK(elements(four) == elements(t));
  CHECK(kind_of([&] { t.split(1, 5); }) == ErrorKind::kInternal);
  CHECK(kind_of([&] { t.split(1, 0); }) == ErrorKind::kInternal);
  CHECK(kind_of([&] { four.split(1, 2); }) == ErrorKind::kInternal);
}

TEST_CASE("Tensor reshapes only where contiguous") {
  std::vector<float> data(24);
  const Tensor t = Tensor::contiguous(data.data(), DType::kF32, {}, {4, 6});
  CHECK(t.reshape({2, 12}).strides[0] == 12);
  CHECK(t.slice(0, 1, 1).reshape({6}).data == data.data() + 6);
  CHECK(kind_of([&] { t.reshape({5, 5}); }) == ErrorKind::kInternal);
  CHECK(kind_of([&] { t.slice(1, 0, 3).reshape({12}); }) == ErrorKind::kInternal);
}

TEST_CASE("Buffer hands out tensors that fit") {
  std::vector<std::byte> memory(64);
  bool freed = false;
  {
    const Buffer buffer(memory.data(), 64, {}, [&](void*) { freed = true; });
    CHECK(buffer.tensor(DType::kF32, {4, 4}).data == memory.data());
    CHECK(buffer.tensor(DType::kF16, {8}, 48).data == memory.data() + 48);
    CHECK(kind_of([&] { buffer.tensor(DType::kF32, {4, 5}); }) == ErrorKind::kInternal);
    CHECK(kind_of([&] { buffer.tensor(DType::kU8, {1}, 64); }) == ErrorKind::kInternal);
    CHECK(kind_of([&] { buffer.tensor(DType::kU8, {0}, 65); }) == ErrorKind::kInternal);
    CHECK_FALSE(freed);
  }
  CHECK(freed);
}

TEST_CASE("Workspace aligns, scopes by copy and refuses to overflow") {
  alignas(Workspace::kAlignment) static std::byte memory[4 * Workspace::kAlignment];
  Workspace workspace(memory, sizeof(memory), {});
  const Tensor first = workspace.take(DType::kU8, {1});
  CHECK(first.data == memory);
  CHECK(workspace.used() == Workspace::kAlignment);
  const auto callee = [](Workspace scope) {
    const Tensor inner = scope.take(DType::kF32, {64});
    CHECK(inner.data == memory + Workspace::kAlignment);
    CHECK(scope.take(DType::kU8, {257}).data == memory + 2 * Workspace::kAlignment);
    CHECK(kind_of([&] { scope.take(DType::kU8, {1}); }) == ErrorKind::kInternal);
  };
  callee(workspace);
  callee(workspace);  // what the first call took is free again
  CHECK(workspace.used() == Workspace::kAlignment);
  CHECK(workspace.take(DType::kU8, {0}).numel() == 0);
  CHECK(workspace.used() == Workspace::kAlignment);
  CHECK(kind_of([&] { workspace.take(DType::kF32, {1 << 20}); }) == ErrorKind::kInternal);
}

TEST_CASE("Workspace notes the peak of a dry run over all scopes") {
  std::size_t peak = 0;
  Workspace workspace = Workspace::dry_run({}, &peak);
  const Tensor outer = workspace.take(DType::kF32, {100});  // 400 bytes: 512
  CHECK(outer);
  CHECK(reinterpret_cast<std::uintptr_t>(outer.data) % Workspace::kAlignment == 0);
  const auto scope = [](Workspace inner, std::int64_t bytes) { inner.take(DType::kU8, {bytes}); };
  scope(workspace, 5000);  // 5120
  scope(workspace, 100);
  CHECK(peak == 512 + 5120);
  CHECK(workspace.used() == 512);
  workspace.take(DType::kU8, {1});
  CHECK(peak == 512 + 5120);
}

void check_philox(Philox4 counter, std::uint64_t key, Philox4 expected) {
  const Philox4 found = philox4x32(counter, key);
  for (int i = 0; i < 4; ++i) CHECK(found.word[i] == expected.word[i]);
}

// The known-answer vectors that Random123 publishes for philox4x32, 10 rounds.
TEST_CASE("Philox gives the published answers") {
  check_philox({{0, 0, 0, 0}}, 0, {{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}});
  check_philox({{0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff}}, 0xffffffffffffffff,
               {{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}});
  check_philox({{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}}, 0x299f31d0a4093822,
               {{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}});
}

TEST_CASE("sampling bits count block and position, keyed by the seed") {
  const Philox4 direct = philox4x32({{7, 11, 0, 0}}, 0x123456789abcdef0);
  const Philox4 bits = sampling_bits(0x123456789abcdef0, 11, 7);
  for (int i = 0; i < 4; ++i) CHECK(bits.word[i] == direct.word[i]);
}

TEST_CASE("uniform_open stays inside (0, 1) and is centred") {
  CHECK(uniform_open(0) == 0x1p-24f);
  CHECK(uniform_open(0xffffffff) == 1.0f - 0x1p-24f);
  CHECK(uniform_open(0x80000000) == 0.5f + 0x1p-24f);
  CHECK(uniform_open(0x1ff) == uniform_open(0));
  CHECK(uniform_open(0x200) > uniform_open(0x1ff));
}

}  // namespace
}  // namespace engine::test
