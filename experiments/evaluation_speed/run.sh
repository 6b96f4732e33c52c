#!/usr/bin/env bash
# How fast candidates are scored, everything: bash experiments/evaluation_speed/run.sh [DEMO_DIR [PEERS_PYTHON]]
# With QUICK=1 the least of everything, to see that it runs; then nothing is written but to the screen.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
throughput=$here/../worker_throughput/run.py
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
demo=${1:-$scratch/demo}
peers=${2:-}
if [ -n "${QUICK:-}" ]; then
    zoo=1 large=1 sleep=0.4 workers="1 21" soak=210 rounds="1 --limit 4"
else
    zoo=9 large=7 sleep=4 workers="5 84" soak=1008 rounds=3
fi
export OMP_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false HF_HUB_OFFLINE=1
[ -d "$demo/zoo/base" ] || evomerge demo "$demo"
part() { echo "== $1, $(date +%T)" >&2; }

part "zoo, large"
python "$here/measure.py" zoo "$demo" "$scratch/zoo.json" "$zoo" > "$scratch/log"
python "$here/measure.py" large "$scratch/large" "$scratch/large.json" "$large" > "$scratch/log"
part "workers that only sleep"
python "$throughput" busy "$sleep" > "$scratch/busy.jsonl"
part "one worker and two"
# shellcheck disable=SC2086
python "$throughput" workers "$demo" $workers > "$scratch/workers.jsonl"
part "a thousand trials"
python "$throughput" soak "$demo" "$soak" > "$scratch/soak.jsonl"
if [ -n "$peers" ]; then
    part "peers"
    # shellcheck disable=SC2086
    python "$here/peers/compare.py" "$demo/zoo" "$peers" "$scratch/peers.json" \
        --rounds $rounds > "$scratch/log"
fi
python "$here/assemble.py" "$scratch" > "$scratch/result.json"
[ -n "${QUICK:-}" ] || cp "$scratch/result.json" "$here/result.json"
cat "$scratch/result.json"
