"""`evomerge demo`: a zoo trained from scratch, a study file, and the study."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

from evomerge import optimizers
from evomerge.cli.commands.search import run
from evomerge.core import yaml_file
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
        options = _DEFAULTS | _options_of(study)
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


def _options_of(study: Path) -> dict[str, Any]:
    """Read the options of `evomerge demo` from a study file, whose models may be gone by now."""
    document = yaml_file.mapping(yaml_file.read(study), str(study))
    search = yaml_file.mapping(document.get("search", {}), f"{study}: search")
    workers = yaml_file.mapping(document.get("workers", {}), f"{study}: workers")
    options: dict[str, Any] = {k: search[k] for k in ("optimizer", "trials", "seed") if k in search}
    options |= {"backend": workers["backend"]} if "backend" in workers else {}
    options |= {"workers": workers["count"]} if "count" in workers else {}
    return options | ({"space": document["space"]} if "space" in document else {})


def _refuse_other(given: dict[str, Any], options: dict[str, Any], study: Path) -> None:
    """An earlier call wrote the study file: options that differ from it would have no effect."""
    for key, value in given.items():
        if value != options[key]:
            raise UserError(
                f"--{key}: {study} says {options[key]}, but got {value}; edit that file, or choose "
                "another folder"
            )
