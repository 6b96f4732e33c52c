#!/usr/bin/env bash
# Layers, depth, width, experts and gates in studies, on zoos of `evomerge demo`: experiments/structure/run.sh [ZOO...]
# A zoo is a folder of `evomerge demo` (zoo/ and study.yaml); without any, demo seeds 0 to 2 are made below .zoos/.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
export OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 PYTHONPATH="$here/../..${PYTHONPATH:+:$PYTHONPATH}"
zoos=("$@")
if [ ${#zoos[@]} -eq 0 ]; then
  for seed in 0 1 2; do
    zoos+=("$here/.zoos/$seed")
    [ -f "$here/.zoos/$seed/study.yaml" ] || python "$here/layers.py" make "$seed" "$here/.zoos/$seed"
  done
fi
python "$here/experts.py" "${zoos[@]}"
python "$here/gates.py" "${zoos[@]}"
for zoo in "${zoos[@]}"; do
  for what in speed shapes search hops front; do python "$here/layers.py" "$what" "$zoo"; done
done
