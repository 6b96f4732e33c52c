#!/usr/bin/env bash
# The peers' environment: bash experiments/evaluation_speed/peers/make_environment.sh DIR
# mergekit 0.1.5 with its evolve extra; Mergenetic 0.1.1 without the versions that it pins, which
# cannot be installed together with that; pymoo, which it imports.
set -euo pipefail
python3 -m venv "$1"
"$1/bin/python" -m pip install -q torch==2.13.0
"$1/bin/python" -m pip install -q 'mergekit[evolve]==0.1.5' torch==2.13.0
"$1/bin/python" -m pip install -q --no-deps mergenetic==0.1.1
"$1/bin/python" -m pip install -q pymoo
