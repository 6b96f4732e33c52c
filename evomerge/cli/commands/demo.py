"""`evomerge demo`: train a small zoo from scratch, write a study for it, and run that."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

from evomerge.cli.arguments import count
from evomerge.cli.commands.search import run_study
from evomerge.cli.display.lines import show
from evomerge.core.errors import UserError, unknown

# With another optimizer than `adam` the space is coarser: it sees scores alone, and more of them.
_DEFAULTS: dict[str, Any] = {"optimizer": "adam", "seed": 0, "backend": "ray", "workers": 2}
_BY_GRADIENT = {"space": "task_arithmetic_by_tensor", "trials": 60, "per_generation": 14}
_BY_SCORE = {"space": "task_arithmetic_by_depth", "trials": 240, "per_generation": 48}


def add(commands: Any) -> None:
    """Add the command to the parser's."""
    parser = commands.add_parser("demo", help="train a small zoo and run a whole study on it")
    parser.add_argument("directory", nargs="?", type=Path, default=Path("demo"), metavar="DIR")
    parser.add_argument(
        "--trials", type=count, help="recipes to try (default 60 by gradients, else 240)"
    )
    parser.add_argument("--seed", type=int, help="of training and search (default 0)")
    parser.add_argument("--optimizer", help="which optimizer (default adam)")
    parser.add_argument(
        "--space",
        help="which search space (default task_arithmetic_by_tensor for adam, else .._by_depth)",
    )
    parser.add_argument("--workers", type=count, help="processes (default 2)")
    parser.add_argument("--backend", choices=("local", "ray"), help="default ray")
    parser.set_defaults(run=run, resumes=True)


def run(arguments: argparse.Namespace) -> None:
    """Train the zoo if it is not there yet, write its study file, and run the study.

    Raises:
        UserError: An option is wrong, or differs from the study file of an earlier call; nothing
            is trained then.
    """
    from evomerge import optimizers
    from evomerge.demo import make_zoo, print_step, write_study
    from evomerge.recipe.space.shipped import find
    from evomerge.study.config import StudyConfig

    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # everything it needs is made here
    directory: Path = arguments.directory
    given = {key: getattr(arguments, key) for key in (*_DEFAULTS, "space", "trials")}
    given = {key: value for key, value in given.items() if value is not None}
    study = directory / "study.yaml"
    if study.exists():
        options = _with_defaults(_options_of(study))
        _refuse_other(given, options, study)
    else:
        options = _with_defaults(given)
        if options["optimizer"] not in optimizers.names():
            raise UserError(unknown("optimizer", options["optimizer"], optimizers.names()))
        find(options["space"])
    show(f"zoo: a base and four experts in {directory / 'zoo'}, trained from scratch")
    zoo = make_zoo(directory / "zoo", seed=options["seed"], progress=print_step)
    if not study.exists():
        write_study(zoo, study, **options)
    print(f"study: {study}")
    run_study(StudyConfig.from_yaml(study), directory / "run")


def _with_defaults(options: dict[str, Any]) -> dict[str, Any]:
    options = _DEFAULTS | options
    return (_BY_GRADIENT if options["optimizer"] == "adam" else _BY_SCORE) | options


def _options_of(study: Path) -> dict[str, Any]:
    """Read the options of `evomerge demo` from a study file, whose models may be gone by now."""
    from evomerge.core import yaml_file

    document = yaml_file.mapping(yaml_file.read(study), str(study))
    search = yaml_file.mapping(document.get("search", {}), f"{study}: search")
    workers = yaml_file.mapping(document.get("workers", {}), f"{study}: workers")
    options: dict[str, Any] = {k: search[k] for k in ("optimizer", "trials", "seed") if k in search}
    options |= {"backend": workers["backend"]} if "backend" in workers else {}
    options |= {"workers": workers["count"]} if "count" in workers else {}
    return options | ({"space": document["space"]} if "space" in document else {})


def _refuse_other(given: dict[str, Any], options: dict[str, Any], study: Path) -> None:
    """Refuse options that differ from an earlier call's study file: they would have no effect."""
    for key, value in given.items():
        if value != options[key]:
            raise UserError(
                f"--{key}: {study} says {options[key]}, but got {value}; edit that file, or choose "
                "another folder"
            )
