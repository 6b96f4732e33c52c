"""`evomerge demo`: a zoo trained from scratch, a study file, and the study."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

from evomerge import optimizers
from evomerge.cli.commands.search import run
from evomerge.core.errors import UserError, unknown
from evomerge.recipe.space.space import find
from evomerge.study.config import StudyConfig

_DEFAULTS: dict[str, Any] = {
    "space": "task_arithmetic_by_depth",
    "optimizer": "catcma",
    "trials": 240,
    "seed": 0,
    "backend": "ray",
    "workers": 2,
}


def run_demo(arguments: argparse.Namespace) -> None:
    """Train the zoo if it is not there yet, write its study file, and run the study.

    Raises:
        UserError: An option is wrong, or differs from the study file of an earlier call; nothing
            is trained then.
    """
    from evomerge.demo import make_zoo, print_step, write_study

    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # everything it needs is made here
    directory: Path = arguments.directory
    given = {key: getattr(arguments, key) for key in _DEFAULTS}
    given = {key: value for key, value in given.items() if value is not None}
    study = directory / "study.yaml"
    if study.exists():
        options = _options_of(StudyConfig.from_yaml(study))
        _refuse_other(given, options, study)
    else:
        options = _DEFAULTS | given
        if options["optimizer"] not in optimizers.names():
            raise UserError(unknown("optimizer", options["optimizer"], optimizers.names()))
        find(options["space"])
    print(f"zoo: a base and four experts in {directory / 'zoo'}, trained from scratch")
    zoo = make_zoo(directory / "zoo", seed=options["seed"], progress=print_step)
    if not study.exists():
        write_study(zoo, study, **options)
    print(f"study: {study}")
    run(StudyConfig.from_yaml(study), directory / "run")


def _options_of(config: StudyConfig) -> dict[str, Any]:
    """The options of `evomerge demo` as a study file holds them."""
    return {
        "space": str(config.space),
        "optimizer": config.search.optimizer,
        "trials": config.search.trials,
        "seed": config.search.seed,
        "backend": config.workers.backend,
        "workers": config.workers.count,
    }


def _refuse_other(given: dict[str, Any], options: dict[str, Any], study: Path) -> None:
    """An earlier call wrote the study file: options that differ from it would have no effect."""
    for key, value in given.items():
        if key == "space" and find(value) == find(options[key]):
            continue
        if value != options[key]:
            raise UserError(
                f"--{key}: {study} says {options[key]}, but got {value}; edit that file, or choose "
                "another folder"
            )
