"""Writes the commented study file that `evomerge init` proposes."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

from evomerge.cli.init.candidates import Candidate
from evomerge.cli.init.lineage import Lineage
from evomerge.cli.init.machine import Workers
from evomerge.cli.init.proposal import Budget, Tasks, held_out_items

SCHEMA = "evomerge.schema.json"  # lies beside the study file, for editors
_WIDTH = 96


@dataclass(frozen=True)
class Proposal:
    """What goes into a study file.

    Attributes:
        lineage: The base and the models.
        tasks: What they are scored on.
        budget: Space and trials.
        workers: Where.
        dtype: Of the merged model.
        gain: The smallest gain that the verdict should show; ``None`` where not asked.
    """

    lineage: Lineage
    tasks: Tasks
    budget: Budget
    workers: Workers
    dtype: str
    gain: float | None = None


def study_text(proposal: Proposal, file: Path) -> str:
    """Return the study file as text; folders in it are relative to `file`'s own."""
    lineage, tasks, budget = proposal.lineage, proposal.tasks, proposal.budget
    folder = file.absolute().parent
    count = len(lineage.models)
    lines = [
        f"# yaml-language-server: $schema={SCHEMA}",
        f"# The best merge of {count} model{'s' * (count != 1)}, proposed by `evomerge init`; "
        "edit what you like.",
        f"#   evomerge check {file.name}            loads everything, shows cost and power",
        f"#   evomerge search {file.name} runs/1    searches; the same command again resumes",
        "",
    ]
    lines += [*_comment(f"The base: {lineage.why}.")]
    lines += [*_comment(f"NOTE: {lineage.doubt}.")] if lineage.doubt else []
    lines += [f"base_model: {_name(lineage.base, folder)}", "models:"]
    for one in lineage.models:
        lines.append(_with_note(f"  - {_entry(one, lineage.base, folder)}", _about(one, lineage)))
    if lineage.left_out:
        lines += ["# Left out:"]
        for name, why in lineage.left_out.items():
            lines += _comment(f"  {_name(name, folder)}: {why}")
    lines += [
        "",
        "# What may be merged how: `evomerge spaces` lists all, `evomerge spaces NAME` shows one.",
        f"space: {budget.space}",
        "",
        "evaluate:",
        *_comment(
            f"{tasks.why[:1].upper()}{tasks.why[1:]}. "
            "A name of lm-eval's, or {name: …, metric: …, weight: …}.",
            "  ",
        ),
        *(_comment(f"{tasks.hint}.", "  ") if tasks.hint else []),
        "  tasks:",
        *(f"    - {name}" for name in tasks.names),
    ]
    if tasks.others:
        lines += _comment(f"Also there: {', '.join(tasks.others)}.", "    ")
    if tasks.folders:
        shown = ", ".join(_name(str(one), folder) for one in tasks.folders)
        lines.append(f"  include_path: [{shown}]        # folders of task YAML")
    lines += [
        "  fitness: smooth      # likelihood of right answers; `metric` scores as the task does",
        "  # Shares of each task's items to search on, to race on, and for the verdict.",
        "  items: {search: 0.5, race: 0.2, holdout: 0.3}",
    ]
    if proposal.gain is not None:
        needed = held_out_items(proposal.gain, len(tasks.names))
        lines += _comment(
            f"To show a gain of {proposal.gain:g} over one rival in half of all studies takes "
            f"about {needed:,} held-out items over all tasks; `evomerge check` says what these do.",
            "  ",
        )
    lines += [
        "",
        "search:",
        *_comment(f"{budget.why[:1].upper()}{budget.why[1:]}.", "  "),
        f"  trials: {budget.trials}",
    ]
    if budget.deadline is not None:
        lines.append(f"  deadline: {budget.deadline}          # race and verdict included")
    lines += [
        "  seed: 0",
        "  # optimizer: chosen by space and tasks; `evomerge check` says which and why",
        "",
        *_comment(f"{proposal.workers.words[:1].upper()}{proposal.workers.words[1:]}."),
        f"workers: {_workers(proposal.workers)}",
        f"output: {{dtype: {proposal.dtype}, save_model: true}}",
    ]
    return "\n".join(lines) + "\n"


def _workers(workers: Workers) -> str:
    gpus = f", gpus: {workers.gpus:g}" if workers.gpus else ""
    return f"{{count: {workers.count}{gpus}, threads: {workers.threads}}}"


def _about(one: Candidate, lineage: Lineage) -> str:
    if one.is_adapter:
        return "a LoRA adapter"
    if one.files is None:
        return "not on this machine yet"
    words = f"{_millions(one.parameters)} parameters"
    if one.name in lineage.distances:
        words += f", {100 * lineage.distances[one.name]:.2g} % from the base"
    return words


def _millions(count: int) -> str:
    return f"{count / 1e9:.2g} B" if count >= 1e9 else f"{count / 1e6:.2g} M"


def _entry(one: Candidate, base: str, folder: Path) -> str:
    name = _name(one.name, folder)
    return f"{{model: {_name(base, folder)}, adapter: {name}}}" if one.is_adapter else name


def _name(name: str, folder: Path) -> str:
    """A folder as seen from the study file, or a hub id; quoted where YAML would misread it."""
    path = Path(os.path.expanduser(name))
    if path.exists():
        name = Path(os.path.relpath(path.absolute(), folder)).as_posix()
    plain = name[:1].isalpha() and all(letter.isalnum() or letter in "/-_." for letter in name)
    plain = plain or (name.startswith("../") and all(c.isalnum() or c in "/-_." for c in name))
    return name if plain and name.lower() not in _YAML_WORDS else json.dumps(name)


_YAML_WORDS = {"true", "false", "yes", "no", "on", "off", "null"}


def _with_note(line: str, note: str) -> str:
    return f"{line}{' ' * max(2, 40 - len(line))}# {note}"


def _comment(text: str, indent: str = "") -> list[str]:
    """A comment, wrapped."""
    lines, line = [], f"{indent}#"
    leading = len(text) - len(text.lstrip())
    line += " " * leading
    for word in text.split():
        if len(line) + 1 + len(word) > _WIDTH and line.strip() != "#":
            lines.append(line)
            line = f"{indent}#{' ' * leading}"
        line += f" {word}"
    return [*lines, line]
