"""`evomerge check`: every default shown, parents and tasks loaded, a forecast from one trial."""

from __future__ import annotations

import math
import shutil
import tempfile
from pathlib import Path
from typing import Any

from evomerge import yaml_file
from evomerge.errors import UserError
from evomerge.study.anchors import anchors
from evomerge.study.config import StudyConfig
from evomerge.study.generations import start_optimizer
from evomerge.study.pools import generation_items, split
from evomerge.study.scaling import useful
from evomerge.study.scheduler import Scheduler, Unit
from evomerge.study.shards import SHARDS
from evomerge.study.study import Study
from evomerge.study.workers import open_pool

_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
# Two paired comparisons at 95 % together: each at 97.5 %, two-sided.
_Z = 2.24
_DISCORDANT = 0.2  # share of items on which two good recipes typically differ


def run_check(study: Path) -> None:
    """Load everything that a study needs, score one recipe, and say what the study would take."""
    config = StudyConfig.from_yaml(study)
    print(yaml_file.write(config.to_dict()), end="")
    with tempfile.TemporaryDirectory(prefix="evomerge-check-") as folder:
        space = Study(config, folder).space
        with open_pool(config, Path(folder) / "workers.log") as pool:
            scheduler = Scheduler(pool)
            first = space.fill([dimension.start for dimension in space.dimensions])
            told = _ask(scheduler, {"do": "describe", "recipe": first.to_dict()})
            pools = split(
                told["evaluation"]["item_keys"],
                config.evaluate.items.shares,
                config.search.seed,
                config.evaluate.items.pool_of,
            )
            per_generation = config.evaluate.items_per_task
            items = generation_items(pools["search"], per_generation, config.search.seed, 0)
            average = next(a for a in anchors(config) if a.name == "uniform average")
            request = {"do": "evaluate", "recipe": average.recipe.to_dict(), "shards": [items]}
            mode = config.evaluate.fitness
            _ask(scheduler, {**request, "mode": mode})  # the first one also loads the model
            smooth = _ask(scheduler, {**request, "mode": mode})["seconds"]
            metric = _ask(scheduler, {**request, "mode": "metric"})["seconds"]
    size = told["parameters"]
    needed = size * _BYTES[config.output.dtype]
    free = shutil.disk_usage(study.absolute().parent).free
    if config.output.save_model and free < 1.1 * needed:
        raise UserError(
            f"expected {needed / 1e9:.1f} GB of free disk for the model, got {free / 1e9:.1f}"
        )
    count = {pool: sum(map(len, ids.values())) for pool, ids in pools.items()}
    shown = sum(map(len, items.values()))
    final = metric["total"] / shown * (8 * count["race"] + 9 * count["holdout"])
    whole = (config.search.trials * smooth["total"] + final) / config.workers.count
    candidates = start_optimizer(config, space, None).population + 1  # and the reference anchor
    shards = min(SHARDS, math.ceil(shown / config.evaluate.rows_per_batch))
    gain = _Z * math.sqrt(_DISCORDANT / count["holdout"])
    rows = [
        (
            "parents",
            f"{len(config.models)} and the base, {size / 1e6:.3g} M parameters; they agree",
        ),
        ("tasks", ", ".join(told["evaluation"]["tasks"])),
        ("items", ", ".join(f"{n} in the {pool} pool" for pool, n in count.items())),
        (
            "space",
            f"{len(space.dimensions)} dimensions: {_few([d.name for d in space.dimensions])}",
        ),
        *(("warning", text) for text in told["evaluation"]["warnings"]),
        ("trial", f"{smooth['total']:.2g} s for {shown} items, {_share(smooth)} in the model"),
        ("metric", f"{metric['total']:.2g} s for the same items by the tasks' own metric"),
        ("forecast", f"{_span(whole)} for {config.search.trials} trials, race and verdict"),
        ("workers", _scaling(candidates, shards, smooth)),
        ("resolves", f"a gain of about {gain:.3f} or more on the held-out items"),
    ]
    print()
    for name, text in rows:
        print(f"{name:<10} {text}")


def _ask(scheduler: Scheduler, request: dict[str, Any]) -> dict[str, Any]:
    answers: list[dict[str, Any]] = []
    scheduler.run([Unit("", request)], lambda _unit, answer, _worker: answers.append(answer))
    if "failed" in answers[0]:
        raise UserError(answers[0]["failed"]["message"])
    return answers[0]


def _scaling(candidates: int, shards: int, spent: dict[str, float]) -> str:
    """How long a generation takes with more workers, as far as more of them help."""
    rest = spent["total"] - spent["build"]
    found = useful(candidates, shards, spent["build"], rest)
    told = ", ".join(f"{_span(seconds)} with {count}" for count, seconds in found.items())
    return f"a generation takes {told}; half of {2 * max(found)} would wait"


def _few(names: list[str]) -> str:
    return ", ".join(names) if len(names) <= 4 else f"{names[0]}, {names[1]}, … {names[-1]}"


def _share(spent: dict[str, float]) -> str:
    return f"{100 * spent['forward'] / spent['total']:.0f} %"


def _span(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
