#!/usr/bin/env bash
# SmolLM2-135M and four experts: made, measured, searched.   bash experiments/smollm2/run.sh [ZOO]
# Writes result.json beside this file. What a folder ZOO has already is not made again.
# DOCUMENTS=120 of each task, ROUNDS=3 of timing, KILL_AFTER=180 seconds, STUDIES="study adapters scores"
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
zoo=$(realpath -m "${1:-$(mktemp -d)/zoo}")
export OMP_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false
python -c "import gguf, num2words" || { echo "pip install gguf num2words"; exit 1; }
[ -d "$zoo/tasks" ] || python "$here/make_zoo.py" data "$zoo" --documents "${DOCUMENTS:-120}"
[ -d "$zoo/base" ] || python "$here/make_zoo.py" base "$zoo"
for expert in sums words differences reviews; do
    [ -d "$zoo/adapters/$expert" ] || python "$here/make_zoo.py" "$expert" "$zoo"
done
export HF_HUB_OFFLINE=1 HF_DATASETS_OFFLINE=1
[ -e "$zoo/measured.json" ] || python "$here/speed.py" "$zoo" "$zoo/measured.json" "${ROUNDS:-3}"
cd "$zoo"
mkdir -p runs
for study in ${STUDIES:-study adapters scores}; do
    reuse=()
    [ "$study" = scores ] && [ -d runs/adapters ] && reuse=(--reuse runs/adapters)
    if [ ! -d "runs/$study" ]; then
        evomerge check "$study.yaml"
        # Killed once on the way, as a preempted machine would: the same command resumes.
        evomerge search "$study.yaml" "runs/$study" "${reuse[@]}" & search=$!
        sleep "${KILL_AFTER:-180}"
        kill -9 $search 2>/dev/null || true
        wait $search 2>/dev/null || true
    fi
    evomerge search "$study.yaml" "runs/$study" "${reuse[@]}"
done
python "$here/summarise.py" "$zoo" runs/* > "$here/result.json"
cat "$here/result.json"
