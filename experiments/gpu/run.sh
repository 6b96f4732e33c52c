#!/usr/bin/env bash
# One card, under ten minutes, no downloads: random weights of true shapes, three parents in bfloat16.
#   bash experiments/gpu/run.sh [SHAPE ...]      tiny | 0.5B | 3B | 7.6B
# Without arguments: 0.5B, 3B and 7.6B where there is a GPU, tiny where there is none. Writes
# result.json beside this file. FOLDER=/tmp/gpu has the models (7.6B: 61 GB); WORK=keep leaves them.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
folder=${FOLDER:-$(mktemp -d)}
export TOKENIZERS_PARALLELISM=false HF_HUB_OFFLINE=1 HF_DATASETS_OFFLINE=1
shapes=("$@")
if [ ${#shapes[@]} -eq 0 ]; then
    shapes=(tiny)
    python -c "import sys, torch; sys.exit(not torch.cuda.is_available())" && shapes=(0.5B 3B 7.6B)
fi
for shape in "${shapes[@]}"; do
    python "$here/measure_shapes.py" "$shape" "$folder/$shape" "$here/result.json"
    [ "${WORK:-}" = keep ] || rm -rf "${folder:?}/$shape"
done
