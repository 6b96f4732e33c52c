"""Writes the study file of the demo: a search over the zoo's experts, ready to read and edit."""

from __future__ import annotations

import json
import os
from pathlib import Path

from evomerge.demo.tasks import DOCUMENTS
from evomerge.demo.zoo import Zoo

_STUDY = """\
# A search for the merge of four small experts that does all seven tasks.
# Paths are relative to this file. `evomerge check {file} --config` shows every default.

base_model: {base}
models:
{models}

# How layers are merged: a name in search_spaces/, a path, or an inline recipe with holes.
space: {space}

evaluate:
  tasks:
{tasks}
  include_path: [{include}]
  fitness: smooth            # log-likelihood of the right answer; `metric` decodes instead
  # {documents} documents a task, split by a seeded hash: searched on, raced on, judged on.
  items: {{search: 0.5, race: 0.2, holdout: 0.3, per_generation: {per_generation}}}

search: {{optimizer: {optimizer}, trials: {trials}, seed: {seed}}}
workers: {{backend: {backend}, count: {workers}, device: auto, threads: 1}}
output: {{dtype: float32, save_model: true}}
"""


def write_study(
    zoo: Zoo,
    path: str | Path,
    *,
    space: str = "task_arithmetic_by_tensor",
    optimizer: str = "adam",
    trials: int = 60,
    seed: int = 0,
    per_generation: int = 14,
    backend: str = "local",
    workers: int = 2,
) -> Path:
    """Write a study over `zoo` to `path` and return the path.

    Args:
        zoo: What `make_zoo` returned.
        path: The YAML file to write; its folder is made if it does not exist.
        space: A search space's name or path.
        optimizer: Which optimizer searches.
        trials: How many recipes the search may score.
        seed: The search's seed.
        per_generation: Documents of each task that a generation is scored on.
        backend: ``local`` or ``ray``.
        workers: How many workers score recipes, one thread each.
    """
    path = Path(path)
    text = _STUDY.format(
        file=path.name,
        base=_relative(zoo.base, path),
        models="\n".join(f"  - {_relative(folder, path)}" for folder in zoo.experts.values()),
        space=json.dumps(space) if not space.isidentifier() else space,
        tasks="\n".join(f"    - {{name: {name}, metric: exact_match}}" for name in zoo.task_names),
        include=_relative(zoo.tasks, path),
        documents=DOCUMENTS,
        per_generation=per_generation,
        optimizer=optimizer,
        trials=trials,
        seed=seed,
        backend=backend,
        workers=workers,
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def _relative(folder: Path, study: Path) -> str:
    """Return `folder` as seen from the study file, quoted where YAML would read it otherwise."""
    relative = Path(os.path.relpath(folder.absolute(), study.absolute().parent)).as_posix()
    plain = all(letter.isalnum() or letter in "/-_." for letter in relative)
    return relative if plain else json.dumps(relative, ensure_ascii=False)
