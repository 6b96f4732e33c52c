"""Settings that must stand before any library is imported: offline, one thread, quiet."""

import os
import tempfile
from pathlib import Path

os.environ.update(
    HF_HUB_OFFLINE="1",
    HF_DATASETS_OFFLINE="1",
    TOKENIZERS_PARALLELISM="false",
    LMEVAL_LOG_LEVEL="ERROR",
    RAY_USAGE_STATS_ENABLED="0",
    OMP_NUM_THREADS="1",
    OPENBLAS_NUM_THREADS="1",
    EVOMERGE_CACHE=str(Path(tempfile.gettempdir()) / f"evomerge-tests-{os.getuid()}"),
)
