#!/usr/bin/env bash
# Holds the bytes that engine_bench counts for a decode step (bench/step_traffic.cc) against those
# that the profiler sees the card's memory read. Needs ncu, python3, and a GPU whose hardware
# counters may be read.
#
# Usage: tools/gpu_bytes.sh BIN_DIR
# Each model is cut to a few layers, whose weights are still many times the L2 cache, and decodes
# five tokens under ncu. MODE=graph (default) profiles the last replayed step as one launch;
# MODE=node profiles its kernels one by one, each with a cold cache, and adds up those of the last
# step. Prints a line a model, FAIL where measured / counted lies outside 0.97 to 1.10; tables of
# the profiler go to $LOG_DIR (default: the current folder). One run is stopped after $TIMEOUT
# seconds (default 120). Exit 1 where a model failed.
set -uo pipefail
bin=$1
mode=${MODE:-graph}
limit=${TIMEOUT:-120}
out=${LOG_DIR:-.}
failed=0

compare() {  # NAME: reads $out/NAME.json and $out/NAME.csv
  MODE=$mode python3 - "$1" "$out/$1.json" "$out/$1.csv" <<'PYTHON'
import collections, csv, json, os, sys

name, results, table = sys.argv[1:]
metrics = [json.loads(line)['metric'] for line in open(results) if line.strip()]
value = {metric['name']: metric['benchmark_values'][0] for metric in metrics}
counted = 1e9 * value['memory_bandwidth(GB/s)'] / value['token_per_sec']

# Launches in their order: a row of the raw page is one launch, its second line the units.
lines = [line for line in open(table) if line.startswith('"')]
launches = []
for row in csv.DictReader(lines):
    if not row['ID'].isdigit():
        continue
    number = lambda metric: float(row[metric].replace(',', ''))
    launches.append((row['Kernel Name'], number('dram__bytes_read.sum'),
                     number('dram__bytes_write.sum')))
kinds = collections.Counter(kind for kind, *_ in launches)

if os.environ['MODE'] == 'graph':
    graphs = [one for one in launches if 'graph' in one[0].lower()]
    step = graphs[-1:]
else:  # a step ends with the draw of its token
    ends = [i for i, one in enumerate(launches) if 'sample' in one[0]]
    # Several kernels may draw one token: a step is what lies between two runs of them.
    last = [i for i in ends if i + 1 not in ends]
    step = launches[last[-2] + 1:last[-1] + 1] if len(last) > 1 else []
if not step:
    print(f'FAIL  {name}: no step among {len(launches)} launches: {kinds.most_common(40)}')
    sys.exit(1)
read, written = (sum(one[i] for one in step) for i in (1, 2))
ratio = read / counted
verdict = 'ok   ' if 0.97 <= ratio <= 1.10 else 'FAIL '
print(f'{verdict} {name}: counted {counted / 1e6:.1f} MB, read {read / 1e6:.1f} MB, ratio '
      f'{ratio:.4f}; written {written / 1e6:.2f} MB; {len(step)} launch(es) of {len(launches)}')
for kind, count in collections.Counter(one[0] for one in step).most_common():
    total = sum(one[1] for one in step if one[0] == kind)
    print(f'        {total / 1e6:10.3f} MB in {count:4d} x {kind[:90]}')
sys.exit(verdict != 'ok   ')
PYTHON
}

check() {  # NAME ARGS...: of engine_bench
  local name=$1
  shift
  rm -f "$out/$name.csv" "$out/$name.json"
  # Two metrics of one pass, so that nothing is replayed; caches are flushed before each launch.
  timeout "$limit" ncu --graph-profiling "$mode" --clock-control none --cache-control all \
    --metrics dram__bytes_read.sum,dram__bytes_write.sum --page raw --csv --print-units base \
    --log-file "$out/$name.csv" "$bin/engine_bench" "$@" --device cuda --samples 1 -n 5 \
    --prefill none --depth none -o json >"$out/$name.json" 2>"$out/$name.err"
  local status=$?
  if [ $status != 0 ]; then
    echo "FAIL  $name: exit $status: $(tail -1 "$out/$name.err"); $(grep '==ERROR' "$out/$name.csv" | tail -1)"
    failed=1
    return
  fi
  compare "$name" || failed=1
}

nvidia-smi --query-gpu=name,driver_version --format=csv,noheader
check bytes_bf16 llama2-7b --layers 2
check bytes_int8 llama2-7b --layers 2 --int8
check bytes_mixtral_int8 mixtral-8x7b --layers 2 --int8
exit $failed
