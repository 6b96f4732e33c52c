#!/usr/bin/env bash
# The demo, measured: bash experiments/demo/run.sh [DIR]    writes experiments/demo/result.json
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
dir=${1:-$(mktemp -d)}
began=$(date +%s)
evomerge demo "$dir" | tee "$dir.log"
python "$here/summarise.py" "$dir" "$(($(date +%s) - began))" > "$here/result.json"
python -m evomerge.demo.exam "$dir/zoo"
cat "$here/result.json"
