"""Runs `evomerge check`: loads what a study needs, scores one recipe, forecasts the rest."""

from __future__ import annotations

import math
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from evomerge.checkpoint.dtypes import CODES, ELEMENT_BYTES
from evomerge.checkpoint.opening import open_model
from evomerge.cli.display.lines import show
from evomerge.cli.memory import memory_here, memory_lines
from evomerge.cli.own_data import OwnData, own_data
from evomerge.cli.parents import AT_MOST_SECONDS, parents_lines, requests
from evomerge.core import yaml_file
from evomerge.core.errors import UserError
from evomerge.evaluate.outcomes import passes_of, score_kind_of
from evomerge.recipe.space.space import SearchSpace
from evomerge.report.numbers import duration, plural, size
from evomerge.study.analysis.forecast import DISCORDANT, gain_shown, useful
from evomerge.study.analysis.memory_plan import memory_plan
from evomerge.study.config import StudyConfig
from evomerge.study.journal.shards import PRICES, SHARDS, gradient_shards
from evomerge.study.own_rows import check_rows, described
from evomerge.study.phases.check import task_specs
from evomerge.study.phases.choice import with_optimizer
from evomerge.study.phases.conclusion import JUDGED_ANCHORS
from evomerge.study.phases.control import whole_generations
from evomerge.study.phases.gradients import item_weights
from evomerge.study.phases.search import start_optimizer
from evomerge.study.statistics.outcome import bounds
from evomerge.study.statistics.pools import Items, generation_items, split, together
from evomerge.study.study import Study
from evomerge.study.workers.devices import device
from evomerge.study.workers.pool import open_pool
from evomerge.study.workers.requests import (
    Describe,
    Description,
    Evaluate,
    Gradient,
    Gradients,
    Scores,
)
from evomerge.study.workers.scheduler import Scheduler


def run_check(
    study: Path, parents: bool, settings: Sequence[str] = (), show_config: bool = False
) -> None:
    """Load everything that a study needs, score one recipe, and print what the study would take.

    Args:
        study: The study file.
        parents: Score the parents and the midpoints between them however long that takes.
        settings: Values that take the place of the file's, such as ``search.trials=100``.
        show_config: Print the study with every default, too.
    """
    given = StudyConfig.from_yaml(study, settings)
    with tempfile.TemporaryDirectory(prefix="evomerge-check-") as folder:
        space = Study(given, folder).space
        check_rows(given, space)
        config, why = with_optimizer(given, space)
        optimizer = start_optimizer(config, space, None)
        with open_pool(config, Path(folder) / "workers.log") as pool:
            scheduler = Scheduler(pool)
            config = replace(config, workers=replace(config.workers, count=pool.size))
            first = space.fill([dimension.start for dimension in space.dimensions])
            largest = space.largest
            whole = largest and scheduler.ask(Describe(largest.to_dict()), Description)
            description = scheduler.ask(Describe(first.to_dict()), Description)
            keys = together(description.evaluation)
            pools = split(
                keys,
                config.evaluate.items.shares,
                config.search.seed,
                config.evaluate.items.pool_of,
            )
            per_generation = config.evaluate.items_per_task
            items = generation_items(
                pools["search"], per_generation, config.search.seed, 0, config.evaluate.answers_of
            )
            ids = description.evaluation["items"]
            search = {
                task: [ids[task][i] for i in places] for task, places in pools["search"].items()
            }
            own = own_data(config, space, search, scheduler, Path(folder))
            average = next(a for a in own.anchors if a.name == "uniform average")
            mode = config.evaluate.fitness
            request = Evaluate(average.recipe.to_dict(), [items], mode)
            scheduler.ask(request, Scores)  # the first one also loads the model
            smooth = scheduler.ask(request, Scores).seconds
            metric = scheduler.ask(replace(request, mode="metric"), Scores).seconds
            gradients: list[Gradients] = []
            if optimizer.learns_from_gradients:
                weights = item_weights(description.evaluation["weights"], items)
                about = (optimizer.loss, weights, optimizer.piecewise)
                lines = dict.fromkeys(items, config.models[0]) if optimizer.loss == "line" else None
                document = average.recipe.to_dict()
                backward = Gradient(document, items, *about, lines, measure=True)
                gradients.append(scheduler.ask(backward, Gradients))
            units = requests(config, items)
            by_mode = {mode: smooth["total"], "metric": metric["total"]}
            evaluations = [u.request for u in units if isinstance(u.request, Evaluate)]
            takes = sum(by_mode[one.mode] for one in evaluations) / config.workers.least
            parents_text = [f"parents    would take {duration(takes)} to compare: add --parents"]
            if parents or takes < AT_MOST_SECONDS:
                parents_text = parents_lines(
                    config, scheduler, units, task_specs(description.evaluation)
                )
    n_parameters = max(description.parameters, whole.parameters if whole else 0)
    needed = n_parameters * ELEMENT_BYTES[CODES[config.output.dtype]]
    free = shutil.disk_usage(study.absolute().parent).free
    if config.output.save_model and free < 1.1 * needed:
        raise UserError(
            f"expected {needed / 1e9:.1f} GB of free disk for the model, got {free / 1e9:.1f}"
        )
    count = {pool: sum(map(len, ids.values())) for pool, ids in pools.items()}
    shown = sum(map(len, items.values()))
    per_trial = gradients[0].seconds if gradients else smooth
    phases = _phases(
        config, smooth["total"], metric["total"], per_trial["total"], shown, count, own
    )
    candidates = optimizer.population + (not gradients)  # and the reference anchor
    share = config.search.random_share if optimizer.adapts else 0.0
    fit = whole_generations(config.search.trials, optimizer.population, share)
    shards = min(SHARDS, math.ceil(shown / config.evaluate.rows_per_batch))
    if gradients:
        shards = len(gradient_shards(items))
    rows = [
        (
            "parents",
            f"{len(config.models)} and the base, "
            f"{description.parameters / 1e6:.3g} M parameters; they agree",
        ),
        ("device", _device(config)),
        *_memory(config, gradients, own),
        ("tasks", ", ".join(description.evaluation["tasks"])),
        (
            "items",
            f"{count['search']:,} to search, {count['race']:,} to race, "
            f"{count['holdout']:,} held out",
        ),
        (
            "space",
            f"{len(space.dimensions)} dimensions: {_few([d.name for d in space.dimensions])}"
            + (
                f"; {space.left_out:,} more are left out, since no adapter changes their tensors"
                if space.left_out
                else ""
            ),
        ),
        *(("rows", text) for text in [described(config, pools["search"])] if text),
        *own.lines,
        *_deepest(space, description.layers, needed),
        *([("largest", _largest(config, n_parameters))] if whole else []),
        ("optimizer", f"{config.search.optimizer}: {why}"),
        *(("warning", text) for text in description.evaluation["warnings"]),
        ("trial", f"{smooth['total']:.2g} s for {shown} items, {_share(smooth)} in the model"),
        *(("gradient", _cost(one, shown, optimizer.loss)) for one in gradients),
        ("metric", f"{metric['total']:.2g} s for the same items by the tasks' own metric"),
        (
            "forecast",
            f"about {duration(sum(phases.values()))} for {fit} trials ("
            + ", ".join(f"{name} {duration(seconds)}" for name, seconds in phases.items())
            + ")"
            + _money(config, sum(phases.values())),
        ),
        *(
            [("trials", f"{config.search.trials} wanted, {fit} in whole generations")]
            if fit < config.search.trials
            else []
        ),
        *_power(description.evaluation, pools["holdout"], keys, len(config.models) + 1),
        ("workers", _scaling(candidates, shards, per_trial)),
    ]
    if show_config:
        print(yaml_file.write(config.to_dict()))
    for name, text in rows:
        show(f"{name:<9}  {text}")
    show("\n" + "\n".join(parents_text))


def _deepest(space: SearchSpace, layers: int | None, needed: float) -> list[tuple[str, str]]:
    """Say how deep a space's deepest candidate is, and what that one takes."""
    depth = space.most_layers
    if depth is None or not layers or depth == layers:
        return []
    times = depth / layers
    return [
        (
            "deepest",
            f"{depth} layers, the base has {layers}: a candidate of all of them takes about "
            f"{times:.2g} times as long as the forecast says, and {times * needed / 1e9:.2g} GB",
        )
    ]


def _device(config: StudyConfig) -> str:
    """Say where workers run."""
    workers = config.workers
    where = f"{workers.gpus:g} GPUs each" if workers.gpus else device(workers.device)
    return f"{plural(workers.least, f'{workers.backend} worker')} on {where}"


def _largest(config: StudyConfig, parameters: int) -> str:
    """Say how large a space's largest candidate is."""
    weights = parameters * ELEMENT_BYTES[CODES[config.scored_in]]
    return f"{parameters / 1e6:.3g} M parameters, whose live model has {size(weights)}"


def _memory(
    config: StudyConfig, gradients: Sequence[Gradients], own: OwnData
) -> list[tuple[str, str]]:
    """Say what workers hold, and whether it fits into what this machine has."""
    models = dict.fromkeys([config.base_model, *config.models])
    on_gpu = device(config.workers.device) != "cpu"
    beside = sum(n for one in gradients for what, n in one.memory.items() if what != "of weights")
    plan = memory_plan(config, {name: open_model(name) for name in models}, on_gpu, beside)
    plan = replace(plan, making=own.making, recalled=own.recalled, statistics=own.disk)
    elsewhere = config.workers.ray_address is not None  # on nodes that nobody has looked at
    return memory_lines(plan, config, 0 if elsewhere else memory_here())


def _money(config: StudyConfig, seconds: float) -> str:
    """Say what so much time costs, and whether it is more than the study may cost."""
    price, most = config.cost(seconds), config.search.max_cost
    if price is None:
        return ""
    ends = most is not None and price > most
    return f"; it costs about {price:,.2f}" + (f", and ends at {most:,.2f}" if ends else "")


def _power(
    evaluation: Mapping[str, Any],
    held_out: Items,
    keys: Mapping[str, Sequence[str]],
    parents: int,
) -> list[tuple[str, str]]:
    """Say what gain the verdict would show, and where its error rate is not guaranteed."""
    weights = evaluation["weights"]
    items = {task: len(ids) for task, ids in held_out.items() if weights[task]}
    units = {task: len({keys[task][i] for i in held_out[task]}) for task in items}
    one = [gain_shown(items, weights, share=share) for share in (0.5, 0.8)]
    rivals = parents + JUDGED_ANCHORS
    equal = [gain_shown(items, weights, rivals, share) for share in (0.5, 0.8)]
    rows = [
        (
            "resolves",
            f"a gain of about {one[0]:.3f} over one best parent or anchor in half of all studies, "
            f"of {one[1]:.3f} in four of five; {equal[0]:.3f} and {equal[1]:.3f} if all {rivals} "
            f"are as good (two recipes differing on {100 * DISCORDANT:.0f} % of the held-out "
            "items)",
        )
    ]
    if units != items:
        most = gain_shown(units, weights)
        rows.append(
            (
                "clusters",
                f"{sum(items.values()):,} held-out items are {sum(units.values()):,} independent "
                f"ones; if those of a cluster go together, the first gain is {most:.3f}",
            )
        )
    specs = task_specs(evaluation).items()
    unbounded = [f"{t} ({s['metric']})" for t, s in specs if s["weight"] and not bounds(s)]
    if unbounded:
        rows.append(
            (
                "warning",
                f"no bounds are known for {', '.join(unbounded)}: the verdict's interval is "
                "approximate there, unless the task has `bounds: [low, high]`",
            )
        )
    return rows


def _phases(
    config: StudyConfig,
    smooth: float,
    metric: float,
    per_trial: float,
    shown: int,
    count: Mapping[str, int],
    own: OwnData,
) -> dict[str, float]:
    """Forecast the seconds of each phase from one evaluation of `shown` items by either score."""
    is_smooth = config.evaluate.fitness == "smooth"
    modes = smooth + metric if is_smooth else metric
    anchors = 2 * len(own.anchors) * modes  # on twice as many items as a trial
    seconds = {
        **({"own data": own.seconds} if own.sampled or own.trained else {}),
        "anchors": anchors + (1 + is_smooth) * own.fits["anchors"] + own.fits["once"],
        "search": config.search.trials * (per_trial + own.fits["trial"]),
        "race": 8 * count["race"] / shown * metric,
        "verdict": 9 * count["holdout"] / shown * metric,
    }
    return {phase: one / config.workers.least for phase, one in seconds.items()}


def _scaling(candidates: int, shards: int, spent: Mapping[str, float]) -> str:
    """Return the time of a generation by number of workers, as far as more of them help."""
    rest = spent["total"] - spent["build"]
    by_count = useful(candidates, shards, spent["build"], rest)
    times = ", ".join(f"{duration(seconds)} with {count:,}" for count, seconds in by_count.items())
    return f"a generation takes {times}; half of {2 * max(by_count):,} would be idle"


def _cost(answer: Gradients, items: int, loss: str) -> str:
    """Return the cost of one gradient, in seconds, item evaluations and memory."""
    price = PRICES[score_kind_of(loss)] * passes_of(loss) * items
    without = "; no gradient of the weights is needed, since all parents are adapters on the base"
    return (
        f"{answer.seconds['total']:.2g} s for the same items forward and backward, which count as "
        f"{price:,} item evaluations; about {size(sum(answer.memory.values()))} a worker: "
        + ", ".join(f"{size(each)} {what}" for what, each in answer.memory.items())
        + without * answer.by_factors
    )


def _few(names: list[str]) -> str:
    return ", ".join(names) if len(names) <= 4 else f"{names[0]}, {names[1]}, … {names[-1]}"


def _share(spent: Mapping[str, float]) -> str:
    return f"{100 * spent['forward'] / spent['total']:.0f} %"
