"""`evomerge init`: look at some models, and write a study file that is ready to check."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from evomerge.cli.display.lines import show
from evomerge.core.errors import UserError
from evomerge.core.terminal import printable


def add(commands: Any) -> None:
    """Add the command to the parser's."""
    parser = commands.add_parser("init", help="look at some models and write a study file for them")
    parser.add_argument(
        "models",
        nargs="*",
        metavar="MODELS",
        help="model folders, folders of them, or hub ids (default: models/, else this folder)",
    )
    parser.add_argument("--base", metavar="MODEL", help="the base, where init would guess wrongly")
    parser.add_argument(
        "--tasks",
        action="append",
        default=[],
        metavar="NAMES",
        help="lm-eval tasks, with commas or repeated (default: those in tasks/, else a guess)",
    )
    parser.add_argument(
        "--include-path",
        action="append",
        default=[],
        type=Path,
        metavar="DIR",
        help="a folder of task YAML",
    )
    parser.add_argument("--for", dest="limit", metavar="TIME", help="such as 45m, 4h or 2d")
    parser.add_argument(
        "--preset",
        choices=("quick", "standard", "thorough"),
        help="how many trials (default: by --for)",
    )
    parser.add_argument(
        "--gain", metavar="SIZE", help="the smallest gain to show; says how many items that takes"
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("study.yaml"),
        metavar="FILE",
        help="default study.yaml; it must not exist yet",
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Write the study file, and a JSON schema beside it for editors.

    Raises:
        UserError: No study can be made of these models, or the file exists.
    """
    from evomerge.cli.commands.catalogue import study_schema
    from evomerge.cli.init.proposal import check_gain
    from evomerge.cli.init.study_text import SCHEMA, study_text
    from evomerge.core.atomic import write_text
    from evomerge.study.config import StudyConfig
    from evomerge.study.context import study_space

    out: Path = arguments.out
    if out.exists():
        raise UserError(f"{out}: already exists; name another file with --out, or remove it")
    if not out.absolute().parent.is_dir():
        raise UserError(f"{out}: its folder does not exist")
    gain = None if arguments.gain is None else check_gain(arguments.gain)
    proposal = _proposal(arguments, gain)
    text = study_text(proposal, out)
    write_text(out, text)
    try:  # what `check` would refuse at once is refused here
        config = StudyConfig.from_yaml(out)
        on_disk = all(one.folder is not None for one in proposal.lineage.models)
        if on_disk and Path(config.base_model).is_dir():
            study_space(config)
    except BaseException:
        out.unlink()
        raise
    write_text(out.with_name(SCHEMA), json.dumps(study_schema(), indent=1) + "\n")
    print(printable(text), end="")
    show(f"\nwrote {out} and {SCHEMA} (completion in editors); next:")
    print(printable(f"  evomerge check {out}"))


def _proposal(arguments: argparse.Namespace, gain: float | None) -> Any:
    from evomerge.cli.init.candidates import find
    from evomerge.cli.init.lineage import lineage
    from evomerge.cli.init.machine import Machine, workers
    from evomerge.cli.init.proposal import budget, tasks
    from evomerge.cli.init.study_text import Proposal

    places = arguments.models or (["models"] if Path("models").is_dir() else ["."])
    candidates, refused = find([*places, *_looked_at(arguments.base, places)])
    family = lineage(candidates, arguments.base)
    family.left_out.update(refused)
    names = [name.strip() for given in arguments.tasks for name in given.split(",")]
    folders = [Path(place) for place in places if Path(place).is_dir()]
    near = dict.fromkeys([Path(), *folders, *(folder.absolute().parent for folder in folders)])
    words = " ".join(one.words for one in family.models)
    chosen = tasks([name for name in names if name], arguments.include_path, words, near)
    largest = max(candidates, key=lambda one: one.bytes)
    machine = Machine.here()
    team = workers(machine, largest.bytes, len(family.models))
    room = min(machine.gpus, default=machine.memory) * max(1, team.gpus)
    needed = largest.bytes * (len(family.models) + 2) + 8 * largest.parameters
    by_gradient = 0 < needed < 0.8 * room
    plan = budget(
        arguments.preset,
        arguments.limit,
        team,
        largest.parameters,
        len(family.models),
        by_gradient,
    )
    return Proposal(family, chosen, plan, team, _dtype(largest), gain)


def _looked_at(base: str | None, places: list[str]) -> list[str]:
    """The base as a place to look at, where it is a folder outside the others."""
    if base is None or base in places or not Path(base).is_dir():
        return []
    inside = any(
        Path(place).resolve() in Path(base).resolve().parents
        for place in places
        if Path(place).is_dir()
    )
    return [] if inside else [base]


def _dtype(model: Any) -> str:
    """The dtype of most of a model's weights, where a study can have it; else bfloat16."""
    names = {"F32": "float32", "BF16": "bfloat16", "F16": "float16"}
    sizes: dict[str, int] = {}
    for info in model.tensors.values():
        sizes[info.dtype] = sizes.get(info.dtype, 0) + info.numel
    return names.get(max(sizes, key=lambda code: sizes[code], default=""), "bfloat16")
