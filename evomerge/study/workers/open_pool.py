"""Opens the pool that the study asks for: local child processes, or Ray actors."""

from __future__ import annotations

from pathlib import Path

from evomerge.study.config import StudyConfig
from evomerge.study.workers.local import LocalPool
from evomerge.study.workers.pool import Pool
from evomerge.study.workers.ray import RayPool


def open_pool(config: StudyConfig, log: Path) -> Pool:
    """The pool that the study's `workers` ask for."""
    return RayPool(config) if config.workers.backend == "ray" else LocalPool(config, log)
