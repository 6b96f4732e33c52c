"""`evomerge evaluate`: score models on whole tasks, compare them item by item, resume."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any

from evomerge.cli.arguments import add_settings, count
from evomerge.core.errors import UserError

_SECTIONS = ("evaluate", "workers", "trust_remote_code", "methods")


def add(commands: Any) -> None:
    """Add the command to the parser's."""
    parser = commands.add_parser(
        "evaluate", help="score models on whole tasks, compare them item by item"
    )
    parser.add_argument(
        "models",
        nargs="+",
        metavar="MODEL",
        help="folders, hub ids, either with +ADAPTER, or recipe files; differences are to the "
        "first",
    )
    parser.add_argument(
        "--tasks",
        action="append",
        default=[],
        metavar="NAMES",
        help="lm-eval tasks, with commas or repeated; NAME:METRIC chooses another than the first",
    )
    parser.add_argument(
        "--study", type=Path, metavar="STUDY.yaml", help="take tasks and workers from there"
    )
    parser.add_argument(
        "--include-path",
        action="append",
        default=[],
        type=Path,
        metavar="DIR",
        help="a folder of task YAML",
    )
    parser.add_argument("--limit", type=count, help="the first so many documents of each task")
    parser.add_argument("--dtype", help="float32, bfloat16 or float16 (default: as transformers)")
    parser.add_argument(
        "--ensemble",
        choices=("probabilities", "logits"),
        help="also score all models side by side, by their mean: n models' memory and time",
    )
    parser.add_argument("--workers", type=count, help="processes that share the items")
    parser.add_argument(
        "--store",
        type=Path,
        metavar="DIR",
        help="where scores of items are kept (default: in the user's cache)",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything there, too")
    add_settings(parser)
    parser.set_defaults(run=run, resumes=True)


def run(arguments: argparse.Namespace) -> None:
    """Score what the store lacks, and print scores and differences with their intervals."""
    from evomerge.cli.display.evaluation import (
        EvaluationProgress,
        evaluation_data,
        evaluation_text,
    )
    from evomerge.cli.display.lines import show, working
    from evomerge.core.atomic import user_errors, write_text
    from evomerge.merge.kernels.statistics import cache_folder
    from evomerge.study.evaluation.entrants import ensemble, entrants
    from evomerge.study.evaluation.evaluation import evaluate

    settings, folder = _settings(arguments)
    models = entrants(arguments.models, settings, folder, arguments.dtype)
    if arguments.ensemble is not None:
        about = arguments.models, settings, folder, arguments.dtype
        models.append(ensemble(arguments.ensemble, *about))
    store = arguments.store or cache_folder() / "scores"
    with working("looking at the models") as say:
        evaluation = evaluate(models, store, arguments.limit, EvaluationProgress(say))
    for warning in evaluation.warnings:
        show(f"warning: {warning}")
    show(f"\n{evaluation_text(evaluation)}")
    if arguments.json is not None:
        with user_errors(arguments.json):
            text = json.dumps(evaluation_data(evaluation), indent=1)
            write_text(arguments.json, text + "\n")


def _settings(arguments: argparse.Namespace) -> tuple[dict[str, Any], Path]:
    """Return the sections of a study that an evaluation has, and the folder of their paths."""
    from evomerge.core import yaml_file
    from evomerge.core.variables import expanded, with_settings

    document: dict[str, Any] = {}
    folder = Path.cwd()
    if arguments.study is not None:
        folder = arguments.study.absolute().parent
        whole = yaml_file.mapping(yaml_file.read(arguments.study), str(arguments.study))
        whole = expanded(whole, os.environ, str(arguments.study))
        document = {key: whole[key] for key in _SECTIONS if key in whole}
    evaluate = dict(document.get("evaluate") or {})
    names = [name.strip() for given in arguments.tasks for name in given.split(",")]
    if any(names):
        evaluate["tasks"] = [_task(name) for name in names if name]
    if arguments.include_path:
        evaluate["include_path"] = [str(path.absolute()) for path in arguments.include_path]
    document["evaluate"] = evaluate
    if arguments.workers is not None:
        document["workers"] = {**(document.get("workers") or {}), "count": arguments.workers}
    document = with_settings(document, arguments.settings)
    strange = next((key for key in document if key not in _SECTIONS), None)
    if strange is not None:
        raise UserError(f"--set {strange}: an evaluation has only {', '.join(_SECTIONS)}")
    if not document["evaluate"].get("tasks"):
        raise UserError("expected tasks: --tasks NAMES, or --study STUDY.yaml that has some")
    return document, folder


def _task(name: str) -> Any:
    task, colon, metric = name.partition(":")
    return {"name": task, "metric": metric} if colon else task
