#!/usr/bin/env bash
# Test programs and sanitizers on a machine with a GPU, with programs built elsewhere.
#
# Usage: tools/gpu_check.sh BIN_DIR [PART...]      default: every part
#   auto portable      kernels_test, large cases included, on each of the two sets of kernels
#   model              parity_test, session_test and quantised_test, on each of the two
#   memcheck initcheck synccheck      kernels_test without large cases
#   racecheck          the same, in each of the two sets; without cuBLASLt, since racecheck breaks
#                      down on its kernels; of each case the first $RACECHECK_LAUNCHES launches
#                      (default 40)
#   memcheck_generate  engine_generate on the demos: dense and mixture, bf16 and int8
# Run it in the root of the source tree. A part is cut into its test cases, those with names that
# match the regular expression $CASES (default: all), and $JOBS of them
# (default 12) run side by side: the oracles on the host take most of the time. One job is stopped
# after $TIMEOUT seconds (default 300), and everything after $BUDGET seconds (default 560): what
# was stopped or not begun counts as failed, and is named. Prints one line a part last; one log a
# part goes to $LOG_DIR (default: the current folder). Exit 1 where a part failed.
set -uo pipefail
here=$(cd "$(dirname "$0")/.." && pwd)
bin=$(cd "$1" && pwd)
shift
[ $# -gt 0 ] || set -- auto portable model memcheck_generate memcheck initcheck synccheck racecheck
out=${LOG_DIR:-.}
jobs=${JOBS:-12}
limit=${TIMEOUT:-300}
budget=${BUDGET:-560}
export ENGINE_TEST_DEVICES=cuda ENGINE_BIN_DIR=$bin ENGINE_SOURCE_DIR=${ENGINE_SOURCE_DIR:-$here}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
names=() parts=() commands=()  # of the jobs

add_job() {  # PART NAME COMMAND
  parts+=("$1") names+=("$2") commands+=("$3")
}

add_cases() {  # PART PROGRAM PREFIX: a job for every case of PROGRAM, PREFIX before the command
  local index=0 found=0 name
  while IFS= read -r name; do
    index=$((index + 1))
    [[ $name =~ ${CASES:-.} ]] || continue
    # What racecheck reports there is its own (docs/testing.md).
    [[ $1 = racecheck && $name = "mixtures behind each other"* ]] && continue
    [[ $1 = racecheck && $name = "a replayed norm and linears of int8"* ]] && continue
    found=1
    add_job "$1" "$2: $name" "$3 $bin/$2 --first=$index --last=$index"
  done < <("$bin/$2" --list-test-cases | grep -v -e '^\[doctest\]' -e '^=*$')
  [ $found -gt 0 ] || add_job "$1" "$2: no cases found" false
}

add_part() {
  local check="ENGINE_TEST_QUICK=1 compute-sanitizer --error-exitcode 1 --print-limit 20"
  local portable=ENGINE_CUDA_PATH=portable suite demo format
  case $1 in
    auto) add_cases auto kernels_test "" ;;
    portable) add_cases portable kernels_test $portable ;;
    model)
      for suite in parity_test session_test quantised_test; do
        add_cases model $suite ""
        add_cases model $suite $portable
      done ;;
    # A test asks for too much memory on purpose: failed API calls are the tests' business alone.
    memcheck) add_cases memcheck kernels_test "$check --tool memcheck --report-api-errors no" ;;
    racecheck)
      check+=" --tool racecheck --kernel-name kernel_substring=engine"
      check+=" --launch-count ${RACECHECK_LAUNCHES:-40}"
      add_cases racecheck kernels_test "ENGINE_CUBLASLT=off $check"
      add_cases racecheck kernels_test "ENGINE_CUBLASLT=off $portable $check" ;;
    memcheck_generate)
      for demo in stories-3m stories-moe-3m; do
        for format in "" --int8; do
          add_job "$1" "$demo $format" "$check --tool memcheck --report-api-errors no \
            $bin/engine_generate $ENGINE_SOURCE_DIR/models/$demo -p 'Once upon a time there was a \
            little fox who lived in a green wood by the river.' -n 8 --seed 7 --device cuda $format"
        done
      done ;;
    initcheck | synccheck) add_cases "$1" kernels_test "$check --tool $1" ;;
    *) echo "unknown part '$1'" >&2 && exit 2 ;;
  esac
}

run_job() {  # INDEX: leaves a log, the exit status and the seconds it took
  local left=$((budget - SECONDS)) started=$SECONDS status=124
  [ $left -gt "$limit" ] && left=$limit
  if [ $left -gt 0 ]; then
    timeout -k 5 $left bash -c "exec env ${commands[$1]}" >"$work/$1.log" 2>&1
    status=$?
  fi
  echo "$status $((SECONDS - started))" >"$work/$1.rc"
}

# Sets `verdict` of job INDEX with exit status STATUS.
judge() {
  local log=$work/$1.log
  verdict=ok
  if [ ! -f "$log" ]; then
    verdict="not begun within $budget s"
  elif [ "$2" = 124 ] || [ "$2" = 137 ]; then
    verdict="stopped at its time limit"
  elif grep -q 'terminated before first instrumented API call' "$log" &&
    grep -q 'Status: SUCCESS' "$log"; then
    verdict=skipped  # a case of the CPU alone
  elif [ "$2" != 0 ]; then
    verdict="exit $2; $(grep -E 'ERROR:|ERROR SUMMARY|RACECHECK SUMMARY|rror:' "$log" | tail -1)"
  elif grep -q 'skipped: CUDA' "$log"; then
    verdict="no GPU: $(grep 'skipped: CUDA' "$log" | tail -1)"
  elif grep -q 'test cases: *0 ' "$log"; then
    verdict="no case ran"
  elif grep -q 'skipped:' "$log"; then
    verdict=skipped
  fi
}

report_part() {  # PART: its log, its failures and its line
  local index status seconds total=0 passed=0 skipped=0 longest=0 slowest="" verdict
  for index in "${!parts[@]}"; do
    [ "${parts[$index]}" = "$1" ] || continue
    read -r status seconds <"$work/$index.rc"
    total=$((total + 1))
    judge "$index" "$status"
    [ "$seconds" -gt "$longest" ] && longest=$seconds && slowest=${names[$index]}
    case $verdict in
      ok) passed=$((passed + 1)) ;;
      skipped) skipped=$((skipped + 1)) ;;
      *) echo "FAIL  $1: ${names[$index]}: $verdict" ;;
    esac
    {
      echo "== ${names[$index]}: $verdict, $seconds s"
      echo "   ${commands[$index]}"
      [ ! -f "$work/$index.log" ] || cat "$work/$index.log"
    } >>"$out/$1.log"
  done
  status=ok
  [ $((passed + skipped)) = $total ] && [ $passed -gt 0 ] || status=FAIL
  [ $status = ok ] || failed=1
  table+=("$status  $1: $passed of $total passed, $skipped skipped; longest $longest s ($slowest)")
}

for part in "$@"; do
  add_part "$part"
  : >"$out/$part.log"
done
for index in "${!commands[@]}"; do
  while [ "$(jobs -rp | wc -l)" -ge "$jobs" ]; do wait -n; done
  run_job "$index" &
done
wait
table=() failed=0
for part in "$@"; do report_part "$part"; done
nvidia-smi --query-gpu=name,driver_version --format=csv,noheader
printf '%s\n' "${table[@]}" "$SECONDS s in all"
exit $failed
