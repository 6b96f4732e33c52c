#!/usr/bin/env bash
# Merging against a memory copy and mergekit 0.1.5: bash experiments/merge_throughput/run.sh
# MERGEKIT_PYTHON is the python of mergekit's environment (tests/peer/make_environment.sh makes it);
# without it mergekit is left out. Three minutes, 5 GB of scratch disk, one thread.
set -euo pipefail
cd "$(dirname "$0")/../.."
PYTHONPATH=$PWD OMP_NUM_THREADS=1 "${PYTHON:-python}" experiments/merge_throughput/measure.py
PYTHONPATH=$PWD OMP_NUM_THREADS=1 "${PYTHON:-python}" experiments/merge_throughput/regmean.py  # its candidates, by turns
