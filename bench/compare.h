// Two result files, row by row.
#pragma once

#include "bench/table.h"

namespace engine::bench {

// One row for every result of either table: what identifies it (name, metric, dtype, device and,
// where both have them, the columns of the configuration), its value in `a` and in `b`, and b ÷ a.
// Where a table holds a result several times, the last counts. Rows that only one table has show
// "-". Throws Error{kUsage} naming a column that a table lacks or a value that is not a number.
Table compare(const Table& a, const Table& b);

}  // namespace engine::bench
