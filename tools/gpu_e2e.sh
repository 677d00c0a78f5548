#!/usr/bin/env bash
# End-to-end checks on a machine with a GPU, with programs built elsewhere. Needs python3 with
# numpy, and 30 GB of disk and memory for the 7B-shaped checkpoint.
#
# Usage: tools/gpu_e2e.sh BIN_DIR WORK_DIR
# Prints one line a check; details go to $LOG_DIR (default: WORK_DIR). Exit 1 where a check failed.
set -uo pipefail
cd "$(dirname "$0")/.."
generate=$1/engine_generate
work=$2
out=${LOG_DIR:-$work}
mkdir -p "$work" "$out"
failures=0

same() {  # A B: 1 where both are there and equal
  [ -n "$1" ] && [ "$1" = "$2" ] && echo 1 || echo 0
}
report() {  # NAME OK DETAIL
  [ "$2" = 1 ] && echo "ok    $1: $3" || { echo "FAIL  $1: $3"; failures=$((failures + 1)); }
}
field() {  # FILE EXPRESSION: a value of a JSON file
  python3 -c "import json; j=json.load(open('$1')); print($2)" 2>/dev/null
}
run_json() {  # NAME ARGS...: runs with --json into $out/NAME.json
  local name=$1
  shift
  "$generate" "$@" --json >"$out/$name.json" 2>"$out/$name.err" || {
    report "$name" 0 "exit $? $(tail -1 "$out/$name.err")"
    return 1
  }
}

"$generate" --version
"$generate" --list-devices

# The demos, dense and a mixture, plain and int8: CPU and GPU agree in f32, and eager and replayed
# steps and repeated runs agree exactly.
demo=models/stories-3m
common=(-p "Once upon a time" -n 200 --seed 7 --ignore-eos)
for model in "$demo" models/stories-moe-3m; do
  for format in "" --int8; do
    what="$(basename "$model") ${format:-plain}"
    run_json demo_cpu "$model" "${common[@]}" --dtype f32 --temperature 0 --device cpu $format
    run_json demo_gpu "$model" "${common[@]}" --dtype f32 --temperature 0 --device cuda $format
    a=$(field "$out/demo_cpu.json" "j['ids_hash']"); b=$(field "$out/demo_gpu.json" "j['ids_hash']")
    report "$what: f32 greedy, cpu = cuda" $(same "$a" "$b") "$a $b"
    hashes=""
    for i in 1 2 3 4 5 6 7 8 9 10; do
      extra=()
      [ $((i % 2)) = 0 ] && extra=(--eager)
      run_json demo_seed "$model" "${common[@]}" --device cuda $format "${extra[@]}"
      hashes="$hashes $(field "$out/demo_seed.json" "j['ids_hash']")"
    done
    distinct=$(echo "$hashes" | tr ' ' '\n' | sed '/^$/d' | sort -u | wc -l)
    report "$what: ten processes, one seed, eager and replayed" \
      $([ "$distinct" = 1 ] && echo 1 || echo 0) "$distinct distinct hash"
  done
done

# A 7B-shaped checkpoint from the page cache.
model=$work/llama2-7b
[ -f "$model/config.json" ] || python3 tools/make_random_checkpoint.py --preset llama2-7b \
  --output "$model" >"$out/make_7b.log" 2>&1 || report "make 7b" 0 "$(tail -1 "$out/make_7b.log")"
cat "$model"/*.safetensors >/dev/null
prompt=(--prompt-tokens 1,15043,29892,590,1024,338 -n 200 --seed 1234 --ignore-eos --device cuda)
run_json seven_replayed "$model" "${prompt[@]}"
run_json seven_eager "$model" "${prompt[@]}" --eager
a=$(field "$out/seven_replayed.json" "j['ids_hash']")
b=$(field "$out/seven_eager.json" "j['ids_hash']")
report "7b eager = replayed, 200 ids" $(same "$a" "$b") "$a $b"
rate=$(field "$out/seven_replayed.json" "round(j['memory']['weights_bytes']/j['timings']['load_s']/1e9,2)")
report "7b load GB/s (at least 5)" $(python3 -c "print(int($rate >= 5))") "$rate"
speed=$(field "$out/seven_replayed.json" "round(j['timings']['tokens_per_s'],1)")
eager=$(field "$out/seven_eager.json" "round(j['timings']['tokens_per_s'],1)")
first=$(field "$out/seven_replayed.json" "round(1e3*j['timings']['prefill_s'],1)")
echo "      7b decode tokens/s: replayed $speed, eager $eager; first token $first ms"
rm -rf "$model"

# Past 64k positions on a one-layer model: decoded token by token, and prefilled.
deep=$work/deep
python3 tools/make_random_checkpoint.py --layers 1 --hidden 512 --heads 8 --kv-heads 2 \
  --feed-forward 1024 --vocab 4096 --positions 70000 --output "$deep" \
  --tokenizer "$demo/tokenizer.json" >"$out/make_deep.log" 2>&1 ||
  report "make deep" 0 "$(tail -1 "$out/make_deep.log")"
run_json deep_decode "$deep" --prompt-tokens 1,2,3 -n 66000 --seed 3 --ignore-eos --device cuda &&
  report "decode to position 66000" $([ "$(field "$out/deep_decode.json" "len(j['ids'])")" = 66000 ] \
    && echo 1 || echo 0) "$(tail -1 "$out/deep_decode.err")"
python3 -c "print('One day a fox ran home. ' * 9500)" >"$work/long.txt"
run_json deep_prefill "$deep" -f "$work/long.txt" -n 20 --temperature 0 --dtype f32 \
  --ignore-eos --device cuda &&
  report "prefill past 64k" 1 "$(field "$out/deep_prefill.json" "len(j['prompt_ids'])") tokens"
run_json deep_prefill_cpu "$deep" -f "$work/long.txt" -n 20 --temperature 0 --dtype f32 \
  --ignore-eos --device cpu
a=$(field "$out/deep_prefill.json" "j['ids_hash']")
b=$(field "$out/deep_prefill_cpu.json" "j['ids_hash']")
report "prefill past 64k, cpu = cuda" $(same "$a" "$b") "$a $b"

# Faults that need a GPU: memory taken by a cache too large.
"$generate" "$deep" --prompt-tokens 1 -n 1 --max-context 70001 --device cuda >/dev/null 2>&1
report "context past the model's limit" $([ $? = 2 ] && echo 1 || echo 0) "exit 2"
CUDA_VISIBLE_DEVICES= "$generate" "$demo" -p x --device cuda >/dev/null 2>"$out/nogpu.err"
report "no visible GPU" $([ $? = 6 ] && echo 1 || echo 0) "$(tail -1 "$out/nogpu.err")"
CUDA_VISIBLE_DEVICES= "$generate" "$demo" -p x -n 3 >/dev/null 2>"$out/auto.err"
report "auto without a GPU runs on the CPU" $([ $? = 0 ] && echo 1 || echo 0) "$(head -1 "$out/auto.err")"

echo "$failures failed"
[ "$failures" = 0 ]
