#!/usr/bin/env bash
# SmolLM2-135M and three experts: made, measured, searched.   bash experiments/smollm2/run.sh [ZOO]
# Writes result.json beside this file. TRIALS and DOCUMENTS change the study's size.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
zoo=$(realpath -m "${1:-$(mktemp -d)/zoo}")
export OMP_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false
python -c "import gguf, num2words" || { echo "pip install gguf num2words"; exit 1; }
[ -d "$zoo/tasks" ] || python "$here/make_zoo.py" data "$zoo" --documents "${DOCUMENTS:-240}"
for step in base sums words reviews; do
    [ -e "$zoo/$step" ] || python "$here/make_zoo.py" "$step" "$zoo"
done
export HF_HUB_OFFLINE=1 HF_DATASETS_OFFLINE=1
python "$here/speed.py" "$zoo" "$zoo/measured.json" "${ROUNDS:-5}"
cd "$zoo"
sed -i "s/trials: [0-9]*/trials: ${TRIALS:-240}/" study.yaml
evomerge check study.yaml
run=$zoo/runs/ties
mkdir -p "$zoo/runs"
# Killed once on the way, as a preempted machine would: the same command resumes.
evomerge search study.yaml "$run" & search=$!
sleep "${KILL_AFTER:-600}"
kill -9 $search 2>/dev/null || true
wait $search 2>/dev/null || true
evomerge search study.yaml "$run"
evomerge report "$run"
python "$here/summarise.py" "$zoo" "$run" > "$here/result.json"
cat "$here/result.json"
