"""`evomerge trajectory`: write an average over the checkpoints of runs as a recipe, or score it."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from evomerge.cli.arguments import count
from evomerge.core.errors import UserError

_OPTIONS = {  # of each kind; the first of a list is required
    "uniform": ("start", "stride"),
    "last": ("k", "stride"),
    "ema": ("decay",),
    "cumulative": (),
    "swad": ("losses", "converged", "overfit", "tolerance"),
}
_REQUIRED = ("k", "decay", "losses")


def add(commands: Any) -> None:
    """Add the command to the parser's."""
    parser = commands.add_parser("trajectory", help="average a run's checkpoints: print the recipe")
    parser.add_argument("kind", choices=tuple(_OPTIONS), metavar="KIND", help=", ".join(_OPTIONS))
    parser.add_argument(
        "checkpoints",
        nargs="*",
        metavar="CHECKPOINT",
        help="from first to last; or one folder of checkpoint-N folders",
    )
    parser.add_argument(
        "--run",
        dest="runs",
        action="append",
        nargs="+",
        default=[],
        metavar="CHECKPOINT",
        help="one of several runs, whose averages are averaged",
    )
    parser.add_argument("--start", type=int, help="uniform: the first checkpoint's number, from 0")
    parser.add_argument("--stride", type=int, help="uniform, last: use every N-th checkpoint")
    parser.add_argument("--k", type=int, help="last: how many checkpoints")
    parser.add_argument("--decay", type=float, help="ema: share that the past keeps, in [0, 1)")
    parser.add_argument("--losses", metavar="FILE", help="swad: JSON list, a loss per checkpoint")
    parser.add_argument("--converged", type=int, help="swad: N_s of the paper (default 3)")
    parser.add_argument("--overfit", type=int, help="swad: N_e of the paper (default 6)")
    parser.add_argument("--tolerance", type=float, help="swad: r of the paper (default 1.3)")
    parser.add_argument("--out-dtype", help="of the result: float32 (default), bfloat16, float16")
    parser.add_argument("--out", type=Path, metavar="FILE", help="default: print it")
    parser.add_argument(
        "--curve",
        metavar="TASKS",
        help="score each checkpoint and the average up to it on these lm-eval tasks instead",
    )
    parser.add_argument(
        "--include-path", type=Path, metavar="DIR", help="--curve: a folder of task YAML"
    )
    parser.add_argument("--limit", type=count, help="--curve: documents of each task")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Print or write the recipe of the average."""
    from evomerge.recipe import average as trajectory

    options: dict[str, Any] = {}
    for name in sorted({option for options in _OPTIONS.values() for option in options}):
        value = getattr(arguments, name)
        if value is not None and name not in _OPTIONS[arguments.kind]:
            raise UserError(f"--{name}: {arguments.kind} has no such option")
        if value is None and name in _OPTIONS[arguments.kind] and name in _REQUIRED:
            raise UserError(f"{arguments.kind}: expected --{name}")
        if value is not None:
            options[name] = _losses(Path(value)) if name == "losses" else value
    if arguments.out_dtype is not None:
        options["out_dtype"] = arguments.out_dtype
    runs = [_checkpoints(run) for run in [arguments.checkpoints, *arguments.runs] if run]
    if not runs:
        raise UserError("trajectory: expected checkpoints")

    def average(run: trajectory.Checkpoints) -> Any:
        chosen = dict(options)
        if "losses" in chosen and len(run) < len(runs[0]):  # of the run as it was by then
            chosen["losses"] = chosen["losses"][: len(run)]
        return getattr(trajectory, arguments.kind)(run, **chosen)

    several = len(runs) > 1
    if arguments.curve is not None:
        if several:
            raise UserError("trajectory: --curve: expected one run")
        _show_curve(arguments, runs[0], average)
        return
    recipe = trajectory.soup_of_averages(runs, average) if several else average(runs[0])
    text = recipe.to_yaml(arguments.out)
    print(arguments.out if arguments.out is not None else text, end="\n" if arguments.out else "")


def _show_curve(arguments: argparse.Namespace, run: Sequence[str], average: Any) -> None:
    from evomerge.cli.display.evaluation import EvaluationProgress, score_text
    from evomerge.cli.display.lines import show
    from evomerge.merge.kernels.statistics import cache_folder
    from evomerge.report.numbers import short_names
    from evomerge.study.evaluation.curve import curve

    evaluate: dict[str, Any] = {"tasks": [t.strip() for t in arguments.curve.split(",")]}
    if arguments.include_path is not None:
        evaluate["include_path"] = [str(arguments.include_path.absolute())]
    points = curve(
        run,
        average,
        {"evaluate": evaluate},
        cache_folder() / "scores",
        arguments.limit,
        EvaluationProgress(),
    )
    names = short_names(point.checkpoint for point in points)
    for point in points:
        so_far = "" if point.average is None else f"; average {score_text(point.average)}"
        show(f"{names[point.checkpoint]}: {score_text(point.alone)}{so_far}")


def _checkpoints(names: list[str]) -> list[str]:
    """Return the checkpoints named, or those in the one folder named; local paths are absolute."""
    from evomerge.checkpoint.names import relocated
    from evomerge.recipe.average import checkpoints_of

    if len(names) == 1 and Path(names[0]).is_dir():
        folder = Path(names[0])
        names = names if (folder / "config.json").is_file() else checkpoints_of(folder)
    return [relocated(name, Path.cwd()) for name in names]


def _losses(file: Path) -> list[float]:
    try:
        losses = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{file}: expected a JSON list of losses: {error}") from None
    plain = isinstance(losses, list) and all(type(loss) in (int, float) for loss in losses)
    if not plain:
        raise UserError(f"{file}: expected a JSON list of numbers")
    return [float(loss) for loss in losses]
