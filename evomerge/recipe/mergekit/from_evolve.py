"""Reads mergekit-evolve's genome files as study files, with a note where a field changes meaning.

genes.py turns its genes into holes of a space; this file reads tasks, limits and notes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evomerge.checkpoint.files.document import read_json
from evomerge.checkpoint.files.folder import resolve
from evomerge.checkpoint.sandbox.client import inspect
from evomerge.core import schema, yaml_file
from evomerge.core.errors import UserError
from evomerge.recipe.mergekit.genes import base_and_models, read_genome, space_of

_LOWER_IS_BETTER = ("perplexity", "bits_per_byte", "brier_score", "ter")
_PER_GENERATION = 48  # what a study file defaults to
_TRIALS = 100  # mergekit-evolve's own --max-fevals


@dataclass(frozen=True)
class ImportedStudy:
    """A study file as plain data, and where it differs from the genome file, in sentences."""

    document: Mapping[str, Any]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class _Task:
    """One of the ``tasks``, with mergekit-evolve's defaults."""

    name: str
    weight: float = 1.0
    metric: str = "acc,none"

    @classmethod
    def kind_of(cls, value: Any, where: str) -> tuple[type[_Task], Any]:
        """Read a bare name as a task with the defaults."""
        return cls, yaml_file.present({"name": value} if isinstance(value, str) else value, where)


@dataclass(frozen=True)
class _GenomeFile:
    """The whole file; `None` stands for a default that depends on the models."""

    genome: Mapping[str, Any]
    tasks: tuple[_Task, ...] = ()
    limit: int | None = None
    num_fewshot: int | None = None
    shuffle: bool = False
    random_init: bool = False
    apply_chat_template: bool | None = None
    fewshot_as_multiturn: bool = True


def is_genome_file(document: Any) -> bool:
    """Say whether a document is mergekit-evolve's rather than mergekit's."""
    return isinstance(document, Mapping) and "genome" in document


def from_genome(
    document: Any, folder: Path, include_path: Sequence[Path] = (), where: str = "genome file"
) -> ImportedStudy:
    """Read a genome file of mergekit-evolve 0.1.5 as a study file.

    Args:
        document: The file as plain data.
        folder: What its relative folders are relative to.
        include_path: Folders of task YAML (mergekit-evolve's ``--task-search-path``).
        where: What messages call it.

    Raises:
        UserError: A field is unknown or wrong, or asks for what a study cannot do; names it.
    """
    file: _GenomeFile = schema.read(_GenomeFile, yaml_file.present(document, where), where)
    genome = read_genome(file.genome, folder, f"{where}: genome")
    notes: list[str] = []
    base, models = base_and_models(genome, notes, f"{where}: genome")
    evaluate = {
        "tasks": _tasks(file.tasks, where),
        "include_path": [str(path.resolve()) for path in include_path],
        "num_fewshot": file.num_fewshot,
        "apply_chat_template": _chat(file, base, notes),
        "fitness": "metric",
        "items": {"per_generation": _limit(file.limit, notes, where)},
    }
    notes += [
        "fitness: metric, as mergekit-evolve scores; the default, smooth, separates close recipes "
        "and generates no text",
        "a task's score is its mean over items, turned so that higher is better, and "
        "weights are shares",
        f"trials: {_TRIALS} is mergekit-evolve's --max-fevals, which it reads from the command "
        "line; set workers, deadline and seed below or with `evomerge search`",
        "not all items are searched on: winners are raced on fresh ones and judged on held-out "
        "ones, against the parents and plain merges",
        "merges are computed in float32 and cast once to bfloat16, in which mergekit-evolve "
        "computes",
    ]
    if file.shuffle:
        notes.append("shuffle: items are always drawn in a seeded order")
    if file.random_init:
        notes.append("random_init: the search starts from the best plain merge, or each `initial`")
    study = {
        "base_model": base,
        "models": models,
        "space": space_of(genome, base, models, notes, f"{where}: genome"),
        "evaluate": evaluate,
        "search": {"optimizer": "cmaes", "trials": _TRIALS, "seed": 0},
        "output": {"dtype": "bfloat16"},
    }
    return ImportedStudy(study, tuple(notes))


def _tasks(tasks: Sequence[_Task], where: str) -> list[dict[str, Any]]:
    if not tasks:
        raise UserError(f"{where}: expected one or more tasks")
    result = []
    for i, task in enumerate(tasks):
        at = f"{where}: tasks[{i}].weight"
        if not math.isfinite(task.weight):
            raise UserError(f"{at}: expected a number but got {task.weight}")
        if task.weight < 0 and not any(word in task.metric for word in _LOWER_IS_BETTER):
            raise UserError(
                f"{at}: a study turns each metric so that higher is better and takes no negative "
                f"weight for {task.metric}, but got {task.weight:g}"
            )
        result.append({"name": task.name, "metric": task.metric, "weight": abs(task.weight)})
    return result


def _chat(file: _GenomeFile, base: str, notes: list[str]) -> bool:
    """Decide if prompts are chats: mergekit-evolve's default where there is a chat template."""
    if file.apply_chat_template is False:
        return False
    if not file.fewshot_as_multiturn:
        notes.append(
            "fewshot_as_multiturn: the few-shot examples of a chat are always turns of the chat"
        )
    if file.apply_chat_template or _has_chat_template(base):
        return True
    notes.append("apply_chat_template: false, because base_model's tokenizer has no chat template")
    return False


def _has_chat_template(model: str) -> bool:
    folder = resolve(model)
    file = folder / "tokenizer_config.json"
    inspect([folder])
    config = read_json(file) if file.is_file() else {}
    return (folder / "chat_template.jinja").is_file() or (
        isinstance(config, dict) and "chat_template" in config
    )


def _limit(limit: int | None, notes: list[str], where: str) -> int:
    if limit is None:
        notes.append(
            f"limit: mergekit-evolve scores every candidate on all items, a study on "
            f"{_PER_GENERATION} of each task, drawn anew for each generation"
        )
        return _PER_GENERATION
    if limit < 1:
        raise UserError(f"{where}: limit: expected at least 1, but got {limit}")
    notes.append(
        "limit: that many items of each task, drawn anew for each generation, not the first ones"
    )
    return limit
