// Uploading with quantisation: what arrives on the device, row by row, and what is refused.
#include <algorithm>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "kernels/cases/cases.h"
#include "tests/support/backends.h"
#include "tests/support/closeness.h"
#include "tests/support/guarded.h"
#include "tests/support/weights.h"

namespace engine::test {
namespace {

// The weights as a product sees them: each column by a unit vector, in fp32, where a stored byte
// times its scale is exact.
Values columns_of(Backend& backend, const Weight& weight, const std::vector<std::int64_t>& chosen) {
  Values out;
  for (const std::int64_t column : chosen) {
    Values unit(static_cast<std::size_t>(weight.columns), 0.0);
    unit[static_cast<std::size_t>(column)] = 1.0;
    const Guarded x(backend, DType::kF32, {1, weight.columns}, unit);
    Guarded y(backend, DType::kF32, {1, weight.rows});
    run_linear(backend, {.out = y, .x = x, .weight = weight, .residual = {}});
    const Values column_values = y.get("column");
    out.insert(out.end(), column_values.begin(), column_values.end());
  }
  return out;
}

Values expected_columns(const Values& decoded, std::int64_t columns,
                        const std::vector<std::int64_t>& chosen) {
  Values out;
  for (const std::int64_t column : chosen) {
    for (std::size_t i = static_cast<std::size_t>(column); i < decoded.size();
         i += static_cast<std::size_t>(columns)) {
      out.push_back(decoded[i]);
    }
  }
  return out;
}

TEST_CASE("uploading quantises every row of every stored type by the rule") {
  on_every_backend([](Backend& backend) {
    for (const DType dtype : cases::kFloatTypes) {
      for (const auto& [rows, columns] : {std::pair<std::int64_t, std::int64_t>{1, 1},
                                          {3, 43},
                                          {997, 64},
                                          {64, 997},
                                          {5, 4096}}) {
        const HostMatrix matrix = random_matrix(dtype, rows, columns, 3);
        const UploadedWeight weight(backend, {matrix}, QuantFormat::kInt8);
        CHECK(weight.weight().format == QuantFormat::kInt8);
        CHECK(weight.weight().rows == rows);
        CHECK(weight.weight().columns == columns);
        CHECK(weight.weight().bytes() == static_cast<std::size_t>(rows * (columns + 2)));
        const std::vector<std::int64_t> chosen = {0, columns / 3, columns / 2, columns - 1};
        check_equal(concat("int8 of ", dtype, " (", rows, ", ", columns, ")"),
                    columns_of(backend, weight, chosen),
                    expected_columns(decoded(matrix, QuantFormat::kInt8), columns, chosen));
      }
    }
  });
}

TEST_CASE("uploading quantises rows of many pieces and parts, each by its own scale") {
  // 12 MB of each part, so that several readers take turns; the magnitude differs from row to row.
  on_every_backend([](Backend& backend) {
    std::vector<HostMatrix> parts;
    Values all;
    const std::int64_t columns = 300;
    for (const DType dtype : cases::kFloatTypes) {
      const std::int64_t rows = 10'000;
      Random random(static_cast<std::uint64_t>(dtype) + 1);
      Values values(static_cast<std::size_t>(rows * columns));
      for (std::size_t i = 0; i < values.size(); ++i) {
        const auto row = static_cast<std::int64_t>(i) / columns;
        values[i] = reference::round_to(
            dtype, std::ldexp(random.uniform(-1.0, 1.0), static_cast<int>(row % 13) - 6));
      }
      parts.push_back(matrix_of(dtype, rows, columns, values));
      const Values held = reference::int8_quantise(values, columns).decoded;
      all.insert(all.end(), held.begin(), held.end());
    }
    const UploadedWeight weight(backend, parts, QuantFormat::kInt8);
    const std::vector<std::int64_t> chosen = {0, 17, 299};
    check_equal("int8 of three parts", columns_of(backend, weight, chosen),
                expected_columns(all, columns, chosen));
  });
}

TEST_CASE("uploading quantises zeros, tiny and huge rows") {
  on_every_backend([](Backend& backend) {
    const std::int64_t columns = 37;
    Values values;
    for (const double largest :
         {0.0, std::ldexp(1.0, -140), std::ldexp(1.0, -24), std::ldexp(1.0, -20), 127.5, 1e37}) {
      for (std::int64_t i = 0; i < columns; ++i) {
        values.push_back(reference::round_to(
            DType::kF32, (i % 2 == 0 ? 1.0 : -1.0) * largest / static_cast<double>(1 + i / 2)));
      }
    }
    const HostMatrix matrix = matrix_of(DType::kF32, 6, columns, values);
    const UploadedWeight weight(backend, {matrix}, QuantFormat::kInt8);
    std::vector<std::int64_t> chosen;
    for (std::int64_t i = 0; i < columns; ++i) chosen.push_back(i);
    check_equal("int8 of edge rows", columns_of(backend, weight, chosen),
                expected_columns(decoded(matrix, QuantFormat::kInt8), columns, chosen));
  });
}

TEST_CASE("uploading refuses to quantise NaN and infinity, naming the tensor") {
  on_every_backend([](Backend& backend) {
    for (const DType dtype : cases::kFloatTypes) {
      for (const double bad : {kNan, kInfinity, -kInfinity}) {
        for (const std::int64_t at : {std::int64_t{0}, std::int64_t{43 * 29 + 42}}) {
          Values values = uniform(43 * 30, 4, dtype);
          const HostMatrix good = matrix_of(dtype, 30, 43, values);
          values[static_cast<std::size_t>(at)] = bad;
          const HostMatrix broken = matrix_of(dtype, 30, 43, values);
          const std::unique_ptr<Uploader> uploader = backend.uploader();
          std::vector<HostWeight> parts = {good.source(), broken.source()};
          parts[0].name = "layers.0.good.weight";
          parts[1].name = "layers.3.broken.weight";
          uploader->add(std::move(parts), QuantFormat::kInt8);
          try {
            uploader->finish([](std::size_t) {});
            FAIL_CHECK("quantised " << bad);
          } catch (const Error& error) {
            CHECK(error.kind() == ErrorKind::kModel);
            CHECK(std::string(error.what()).find("layers.3.broken.weight") != std::string::npos);
          }
        }
      }
    }
  });
}

}  // namespace
}  // namespace engine::test
