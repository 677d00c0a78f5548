#include <limits>

#include "kernels/cases/cases.h"
#include "tests/support/backends.h"
#include "tests/support/closeness.h"
#include "tests/support/guarded.h"
#include "tests/support/weights.h"

namespace engine::test {
namespace {

// The expected rows, rounded to `dtype`; only the rows asked for are decoded.
Values expected_rows(const HostMatrix& table, const Values& ids, DType dtype) {
  Values out;
  for (const double id : ids) {
    if (id >= 0 && id < static_cast<double>(table.rows)) {
      table.append_row(static_cast<std::int64_t>(id), out);
    } else {
      out.insert(out.end(), static_cast<std::size_t>(table.columns), kNan);
    }
  }
  for (double& value : out) value = reference::round_to(dtype, value);
  return out;
}

Values random_ids(std::int64_t count, std::int64_t vocabulary) {
  Random random(11);
  Values ids;
  for (std::int64_t i = 0; i < count; ++i) {
    ids.push_back(static_cast<double>(random.below(vocabulary)));
  }
  ids.back() = static_cast<double>(vocabulary - 1);
  return ids;
}

TEST_CASE("embed copies the rows of every size and type exactly") {
  on_every_backend([](Backend& backend) {
    for (const cases::EmbedCase& problem : cases_for(backend, cases::embed_cases())) {
      for (const DType dtype : cases::kFloatTypes) {
        if (!runs_in(backend, problem, dtype)) continue;
        const HostMatrix table = random_matrix(dtype, problem.vocabulary, problem.width, 7);
        const UploadedWeight weight(backend, table);
        const Values ids = random_ids(problem.tokens, problem.vocabulary);
        const Guarded ids_tensor(backend, DType::kI32, {problem.tokens}, ids);
        for (const Layout& layout : {kDense, kOddStrides}) {
          Guarded out(backend, dtype, {problem.tokens, problem.width}, layout);
          backend.ops().embed({.out = out, .table = weight, .ids = ids_tensor});
          const std::string what = concat("embed ", problem.name(), " ", dtype);
          check_equal(what, out.get(what), expected_rows(table, ids, dtype));
        }
      }
    }
  });
}

TEST_CASE("embed agrees with its oracle") {
  on_every_backend([](Backend& backend) {
    const HostMatrix table = random_matrix(DType::kF32, 5, 6, 3);
    const UploadedWeight weight(backend, table);
    const std::vector<std::int32_t> ids = {4, 0, 0, 3};
    const Guarded ids_tensor(backend, DType::kI32, {4}, Values(ids.begin(), ids.end()));
    Guarded out(backend, DType::kF32, {4, 6});
    backend.ops().embed({.out = out, .table = weight, .ids = ids_tensor});
    check_equal("embed", out.get("embed"), reference::embed(table.values(), 6, ids));
  });
}

TEST_CASE("embed writes NaN for ids outside the vocabulary") {
  on_every_backend([](Backend& backend) {
    for (const DType dtype : cases::kFloatTypes) {
      const HostMatrix table = random_matrix(dtype, 9, 43, 5);
      const UploadedWeight weight(backend, table);
      const Values ids = {0,
                          -1,
                          9,
                          8,
                          std::numeric_limits<std::int32_t>::max(),
                          std::numeric_limits<std::int32_t>::min(),
                          3};
      const Guarded ids_tensor(backend, DType::kI32, {7}, ids);
      Guarded out(backend, dtype, {7, 43});
      // Poison is NaN already: a row left alone must not look written.
      out.set(Values(7 * 43, 1.0));
      backend.ops().embed({.out = out, .table = weight, .ids = ids_tensor});
      const std::string what = concat("embed ", dtype);
      check_equal(what, out.get(what), expected_rows(table, ids, dtype));
    }
  });
}

TEST_CASE("embed rounds a table of one type to an output of another") {
  on_every_backend([](Backend& backend) {
    for (const DType stored : cases::kFloatTypes) {
      for (const DType dtype : cases::kFloatTypes) {
        const HostMatrix table = matrix_of(stored, 17, 53, uniform(17 * 53, 23, stored, -3, 3));
        const UploadedWeight weight(backend, table);
        const Values ids = random_ids(29, 17);
        const Guarded ids_tensor(backend, DType::kI32, {29}, ids);
        Guarded out(backend, dtype, {29, 53});
        backend.ops().embed({.out = out, .table = weight, .ids = ids_tensor});
        const std::string what = concat("embed ", stored, " to ", dtype);
        check_equal(what, out.get(what), expected_rows(table, ids, dtype));
      }
    }
  });
}

TEST_CASE("embed carries NaN and infinity of the table through") {
  on_every_backend([](Backend& backend) {
    for (const DType dtype : cases::kFloatTypes) {
      const HostMatrix table = matrix_of(dtype, 2, 3, {1, kNan, -kInfinity, kInfinity, 2, 3});
      const UploadedWeight weight(backend, table);
      const Guarded ids(backend, DType::kI32, {2}, Values{1, 0});
      Guarded out(backend, dtype, {2, 3});
      backend.ops().embed({.out = out, .table = weight, .ids = ids});
      check_equal("embed", out.get("embed"), {kInfinity, 2, 3, 1, kNan, -kInfinity});
    }
  });
}

}  // namespace
}  // namespace engine::test
