#!/usr/bin/env bash
# The README's picture: a search of methods by block on the demo's zoo, and its report in Chromium.
#   bash experiments/report/run.sh DEMO     (a folder that `evomerge demo DEMO` left)
set -euo pipefail
demo=$(realpath "${1:-demo}")
sed 's/^space:.*/space: mixed_methods/' "$demo/study.yaml" > "$demo/mixed.yaml"
evomerge search "$demo/mixed.yaml" "$demo/demo-mixed" --trials 180 --workers 1
chromium --headless --no-sandbox --disable-gpu --hide-scrollbars --window-size=1100,1275 \
  --user-data-dir="$(mktemp -d)" --screenshot="$demo/report.png" "file://$demo/demo-mixed/report.html"
echo "$demo/report.png"
