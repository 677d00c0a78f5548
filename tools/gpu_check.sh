#!/usr/bin/env bash
# Kernel tests and sanitizers on a machine with a GPU, with programs built elsewhere.
#
# Usage: tools/gpu_check.sh BIN_DIR [PART...]      parts: auto portable memcheck racecheck synccheck
#                                                  initcheck; default: all
# The sanitizers run the cases that are not marked large; racecheck, by far the slowest, looks at the
# first launches of each kernel that uses shared memory, one after the other (portable). A run is stopped after TIMEOUT seconds
# (default 200). Prints one line a part last; logs go to $LOG_DIR (default: the current
# folder). Exit 1 where a part failed.
set -uo pipefail
bin=$1
shift
[ $# -gt 0 ] || set -- auto portable memcheck racecheck synccheck initcheck
out=${LOG_DIR:-.}
limit=${TIMEOUT:-200}
export ENGINE_TEST_DEVICES=cuda
table=()
failed=0

run_part() {  # NAME COMMAND...
  local name=$1 started=$SECONDS
  shift
  timeout "$limit" "$@" >"$out/$name.log" 2>&1
  local status=$?
  local verdict=ok
  [ $status = 0 ] || verdict="FAIL (exit $status)"
  [ $status = 124 ] && verdict="FAIL (stopped after $limit s)"
  [ "$verdict" = ok ] || failed=1
  table+=("$name: $verdict, $((SECONDS - started)) s; $(grep -E 'test cases:' "$out/$name.log" | tail -1) \
$(grep -E 'ERROR SUMMARY|RACECHECK SUMMARY' "$out/$name.log" | tail -1)")
}

for part in "$@"; do
  case $part in
    auto) run_part auto "$bin/kernels_test" ;;
    portable) ENGINE_CUDA_PATH=portable run_part portable "$bin/kernels_test" ;;
    racecheck)
      # Not the suites of linear and the fused ops: racecheck breaks down on cuBLASLt's kernels there.
      for pair in attention_decode:attention attention_prefill:attention attention_plain:attention \
                  rmsnorm:rmsnorm sample:sample; do
        ENGINE_CUDA_PATH=portable ENGINE_TEST_QUICK=1 run_part "racecheck_${pair/:/_in_}" compute-sanitizer --tool racecheck \
          --error-exitcode 1 --kernel-name "kernel_substring=${pair%%:*}_kernel" \
          --launch-count "${RACECHECK_LAUNCHES:-60}" "$bin/kernels_test" "-tc=${pair##*:}*"
      done ;;
    # A test exhausts the memory on purpose, so failed API calls are the tests' business alone.
    *) options=()
       [ "$part" = memcheck ] && options=(--report-api-errors no)
       ENGINE_TEST_QUICK=1 run_part "$part" compute-sanitizer --tool "$part" --error-exitcode 1 \
         --print-limit 20 "${options[@]}" "$bin/kernels_test" ;;
  esac
done
nvidia-smi --query-gpu=name,driver_version --format=csv,noheader
printf '%s\n' "${table[@]}"
exit $failed
