"""Where the work runs: local child processes, or Ray actors."""

from __future__ import annotations

from pathlib import Path

from evomerge.study.config import StudyConfig
from evomerge.study.local_workers import LocalPool
from evomerge.study.ray_workers import RayPool
from evomerge.study.worker_pool import Pool


def open_pool(config: StudyConfig, log: Path) -> Pool:
    """The pool that the study's `workers` ask for."""
    return RayPool(config) if config.workers.backend == "ray" else LocalPool(config, log)
