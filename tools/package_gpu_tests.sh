#!/usr/bin/env bash
# Gathers what is needed to run the tests on another machine that has a GPU and the CUDA libraries
# but no build tools: stripped test programs, engine_generate, their shared libraries and a script
# that runs every suite. Run there, from the root of the same source tree: dist/run_tests.sh
#
# Usage: tools/package_gpu_tests.sh [PRESET] [FOLDER]     (default: cuda dist)
set -euo pipefail
cd "$(dirname "$0")/.."
preset=${1:-cuda}
folder=${2:-dist}

cmake --preset "$preset"
cmake --build --preset "$preset"
rm -rf "$folder"
cmake --install "build/$preset" --component tests --strip --prefix "$folder" >/dev/null
cat >"$folder/run_tests.sh" <<'SCRIPT'
#!/usr/bin/env bash
# Runs every suite beside this script, or those named: run_tests.sh [SUITE...]. Further arguments
# for doctest come through ENGINE_TEST_ARGS; ENGINE_TEST_WRAPPER goes before each program
# (compute-sanitizer, say). Exit 1 when a suite failed. Run it in the root of the source tree.
set -uo pipefail
bin=$(cd "$(dirname "$0")/bin" && pwd)
export ENGINE_BIN_DIR=$bin ENGINE_SOURCE_DIR=${ENGINE_SOURCE_DIR:-$PWD}
[ $# -gt 0 ] || set -- $(cd "$bin" && ls | grep '_test$')
failed=()
for suite in "$@"; do
  echo "== $suite"
  ${ENGINE_TEST_WRAPPER:-} "$bin/$suite" ${ENGINE_TEST_ARGS:-} || failed+=("$suite")
done
if [ ${#failed[@]} -gt 0 ]; then
  echo "FAILED: ${failed[*]}"
  exit 1
fi
echo "all $# suites passed"
SCRIPT
chmod +x "$folder/run_tests.sh"
du -sh "$folder"
