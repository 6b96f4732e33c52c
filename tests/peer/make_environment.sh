#!/usr/bin/env bash
# An environment of its own for mergekit 0.1.5: bash tests/peer/make_environment.sh DIR
# Then: MERGEKIT_PYTHON=DIR/bin/python pytest -m peer
#       DIR/bin/python tests/peer/make_golden.py tests/methods/golden_mergekit_0_1_5.safetensors
set -euo pipefail
here=$(cd "$(dirname "$0")/../.." && pwd)
python3 -m venv "$1"
"$1/bin/python" -m pip install -q -c "$here/constraints/cpu.txt" torch mergekit==0.1.5
echo "export MERGEKIT_PYTHON=$(cd "$1" && pwd)/bin/python"
