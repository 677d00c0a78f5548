#!/usr/bin/env bash
# Lines that the tests of the CPU build run, by folder; needs gcovr (Debian's package).
#
# Usage: tools/coverage.sh [CTEST_ARGUMENT...]       such as -R core_test; default: every test
# Builds and runs the preset `coverage` and prints lines, lines run and their share for each folder
# of the engine's own code; the table by file goes to build/coverage/files.txt. A test that fails is
# named, and the exit status is not 0; what it ran counts all the same.
set -uo pipefail
cd "$(dirname "$0")/.."
cmake --preset coverage >/dev/null && cmake --build --preset coverage -j "${JOBS:-2}" || exit 1
find build/coverage -name '*.gcda' -delete
ctest --preset coverage -j "${JOBS:-2}" "$@"
status=$?
gcovr --root . --object-directory build/coverage --filter 'engine/' --filter 'kernels/' \
  --filter 'quant/' --filter 'bench/' --gcov-ignore-parse-errors --json-summary \
  --output build/coverage/summary.json --txt build/coverage/files.txt
python3 - <<'END'
import collections, json
folders = collections.defaultdict(lambda: [0, 0])
for file in json.load(open("build/coverage/summary.json"))["files"]:
    parts = file["filename"].split("/")
    folder = "/".join(parts[:2]) if len(parts) > 2 else parts[0]
    for name in (folder, "all"):
        folders[name][0] += file["line_total"]
        folders[name][1] += file["line_covered"]
for name, (total, covered) in sorted(folders.items(), key=lambda f: (f[0] == "all", f[0])):
    print(f"{name:20} {total:6} lines {covered:6} run {100 * covered / max(total, 1):6.1f} %")
END
exit $status
