#!/usr/bin/env bash
# The whole benchmark: bash experiments/optimizer_benchmark/run.sh WORK     (some hours of one core)
# Interrupt it and call it again: finished searches are kept in WORK/demo and WORK/qwen3.
# The arm `mergenetic` needs the package pymoo (0.6.2 was used); nothing else does.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
work=$1
mkdir -p "$work"
export OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1
declare -A architecture=([demo]=llama [qwen3]=qwen3)
for zoo in demo qwen3; do
  python -c "from evomerge.demo.zoo import make_zoo
make_zoo('$work/zoo-$zoo', architecture='${architecture[$zoo]}')"
  for process in 1 2; do
    python "$here/bench.py" "$work/zoo-$zoo" "$work/$zoo" &
  done
  wait
  python "$here/bench.py" "$work/zoo-$zoo" "$work/$zoo" --spaces parts --budget 56000 --seeds 100 \
    --arms "catcma, 4 items"
  python "$here/bench.py" "$work/zoo-$zoo" "$work/$zoo" --spaces parts depth \
    --arms "coarse_to_fine, 4 items"
  python "$here/bench.py" "$work/zoo-$zoo" "$work/$zoo" --spaces global \
    --arms greedy_soup coordinate_grid lottery_pools simplex_grid lorahub
  python "$here/bench.py" "$work/zoo-$zoo" "$work/$zoo" --spaces tensor component parts depth \
    --seeds 0 1 2 3 4 --arms adam
  python "$here/bench.py" "$work/zoo-$zoo" "$work/$zoo" --spaces tensor --seeds 0 1 2 3 4 \
    --arms "adam, 8 items" "adam, margin" "adam, entropy"
  for budget in 1120 3360; do
    python "$here/bench.py" "$work/zoo-$zoo" "$work/$zoo" --spaces tensor --seeds 0 1 2 3 4 \
      --budget $budget --arms "adam alone"
  done
  mkdir -p "$here/results/$zoo"
  python "$here/shorten.py" "$work/$zoo" "$here/results/$zoo"
done

# Other zoos, fewer arms: does what holds on those two hold on others?
for seed in 1 2 3; do
  python -c "from evomerge.demo.zoo import make_zoo
make_zoo('$work/zoo-demo-$seed', seed=$seed)"
done
python "$here/letters_zoo.py" "$work/zoo-letters"
for zoo in demo-1 demo-2 demo-3 letters; do
  bench() { python "$here/bench.py" "$work/zoo-$zoo" "$work/$zoo" --brief --seeds 0 1 2 "$@"; }
  for budget in 1120 3360; do
    bench --spaces tensor --budget $budget --arms "adam alone"
  done
  bench --spaces tensor component parts depth --arms adam
  bench --spaces parts depth --arms "coarse_to_fine, 4 items" "catcma, 4 items" "cmaes, 4 items"
  bench --spaces parts depth --arms tpe random mergekit-evolve mergenetic
  bench --spaces parts --arms hybrid
  mkdir -p "$here/results/$zoo"
done
for labels in 4 16 64; do
  zoo=letters
  bench --labels $labels --spaces tensor component parts --budget 3360 --arms "adam alone"
  bench --labels $labels --spaces parts --arms "catcma, 4 items"
done
for zoo in demo-1 demo-2 demo-3 letters; do
  python "$here/shorten.py" "$work/$zoo" "$here/results/$zoo"
done
python "$here/replay.py" pack "$work/demo" "$here/results/demo/matrices_parts.npz"
python "$here/replay.py" fit "$here/results/demo/matrices_parts.npz" \
  "$here/results/demo/surrogate_parts.npz"
python "$here/summarise.py" "$here/results"
