#!/usr/bin/env bash
# What of a candidate's time is its forward pass: bash experiments/evaluation_speed/run.sh [DEMO_DIR]
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
scratch=$(mktemp -d)
demo=${1:-$scratch/demo}
export OMP_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false HF_HUB_OFFLINE=1
[ -d "$demo/zoo/base" ] || evomerge demo "$demo"
python "$here/measure.py" zoo "$demo" "$scratch/zoo.json"
python "$here/measure.py" large "$scratch/large" "$scratch/large.json"
python - "$scratch" > "$here/result.json" <<'PYTHON'
import json, platform, subprocess, sys
from importlib.metadata import version
from pathlib import Path

scratch = Path(sys.argv[1])
commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True).stdout.strip()
about = {"commit": commit, "python": platform.python_version(), "threads": 1}
about |= {name: version(name) for name in ("torch", "transformers", "lm_eval")}
parts = {part: json.loads((scratch / f"{part}.json").read_text()) for part in ("zoo", "large")}
print(json.dumps({**about, **parts}, indent=1))
PYTHON
cat "$here/result.json"
