#!/usr/bin/env bash
# The README's picture: the report of the demo's own run in Chromium.
#   bash experiments/report/run.sh DEMO     (a folder that `evomerge demo DEMO` left)
set -euo pipefail
demo=$(realpath "${1:-demo}")
evomerge report "$demo/run"
chromium --headless --no-sandbox --disable-gpu --hide-scrollbars --window-size=1100,1275 \
  --user-data-dir="$(mktemp -d)" --screenshot="$demo/report.png" "file://$demo/run/report.html"
echo "$demo/report.png"
