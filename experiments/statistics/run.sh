#!/usr/bin/env bash
# Merges by models' own data against task arithmetic, on zoos of `evomerge demo`: experiments/statistics/run.sh [ZOO...]
# A zoo is a folder of `evomerge demo` (zoo/ and study.yaml); without any, demo seeds 0 to 3 and Qwen3 are made below .zoos/.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
export OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 PYTHONPATH="$here/../..${PYTHONPATH:+:$PYTHONPATH}"
zoos=("$@")
if [ ${#zoos[@]} -eq 0 ]; then
  for seed in 0 1 2 3; do
    zoos+=("$here/.zoos/$seed")
    [ -f "$here/.zoos/$seed/study.yaml" ] || python "$here/measure.py" make "$seed" "$here/.zoos/$seed"
  done
  zoos+=("$here/.zoos/qwen3")
  [ -f "$here/.zoos/qwen3/study.yaml" ] || python "$here/measure.py" make 0 "$here/.zoos/qwen3" qwen3
fi
for zoo in "${zoos[@]}"; do python "$here/measure.py" zoo "$zoo"; done
