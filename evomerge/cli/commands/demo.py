"""`evomerge demo`: a zoo trained from nothing, a study file, and the study."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from evomerge.cli.commands.search import run
from evomerge.study.config import StudyConfig


def run_demo(arguments: argparse.Namespace) -> None:
    """Train the zoo that is not there yet, write its study file, and run the study."""
    from evomerge.demo import make_zoo, print_step, write_study

    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # everything it needs is made here
    directory: Path = arguments.directory
    print(f"zoo: a base and four experts in {directory / 'zoo'}, trained from nothing")
    zoo = make_zoo(directory / "zoo", seed=arguments.seed, progress=print_step)
    study = directory / "study.yaml"
    if not study.exists():
        write_study(
            zoo,
            study,
            space=arguments.space,
            optimizer=arguments.optimizer,
            trials=arguments.trials,
            seed=arguments.seed,
            backend=arguments.backend,
            workers=arguments.workers,
        )
    print(f"study: {study}")
    run(StudyConfig.from_yaml(study), directory / "run")
