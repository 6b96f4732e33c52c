"""Draws what the report's sections show, each as one plot."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Protocol

from evomerge.core.errors import UserError
from evomerge.recipe.values import scalars
from evomerge.report import recipe_view
from evomerge.report.findings.dimensions import dimensions, named
from evomerge.report.findings.held_out import MODELS, against, held_out_models, judged
from evomerge.report.findings.progress import generations
from evomerge.report.numbers import short_names, signed_interval
from evomerge.report.plot.style import (
    BASELINE,
    INK,
    OTHER,
    RANDOM,
    RUNS,
    SEARCH,
    axes,
    colours,
)
from evomerge.report.run import Run
from evomerge.study.trial import front_of

_ROW = 0.28  # inches


class HasDirectory(Protocol):
    """A study."""

    directory: Path


Source = HasDirectory | str | Path


def convergence(study: Source, ax: Any = None) -> Any:
    """Draw the gain over the reference anchor by generation: best, median, every trial.

    A search along gradients scores no reference: then the fitness of each step, and its mean of
    five. Both are the search's own scores, partly luck.
    """
    run = _run(study)
    history = [g for g in generations(run) if g.optimized]
    if not history:
        raise UserError(f"{run.folder}: no generation has been scored yet")
    gains = any(g.reference is not None for g in history)
    ax = axes(ax, (7.2, 3.2))
    for g in history:
        for standings, colour, marker in ((g.optimized, SEARCH, "o"), (g.random, RANDOM, "s")):
            values = [s.value if gains else s.fitness for s in standings]
            ax.scatter([g.number] * len(values), values, s=9, c=colour, marker=marker, alpha=0.3)
    numbers = [g.number for g in history]
    if gains:
        ax.plot(numbers, [g.best.value for g in history], c=SEARCH, label="best of the generation")
        median = [g.median_gain for g in history]
        ax.plot(numbers, median, c=SEARCH, ls=":", label="median")
        ax.axhline(0, c=BASELINE, lw=1.2, label="reference anchor, same items")
    else:
        best = [g.best.fitness for g in history]
        moving = [math.fsum(best[max(0, i - 4) : i + 1]) / min(i + 1, 5) for i in range(len(best))]
        ax.plot(numbers, moving, c=SEARCH, label="mean of five steps")
    ax.set(xlabel="generation" if gains else "step", ylabel="gain" if gains else "fitness")
    room = max(0.5, 0.02 * (numbers[-1] - numbers[0]))
    ax.set_xlim(numbers[0] - room, numbers[-1] + room)
    ax.locator_params(axis="x", integer=True)
    ax.legend(fontsize=8.5, frameon=False)
    return ax


def heldout(study: Source, ax: Any = None, models: bool = False) -> Any:
    """Draw the winner minus each rival on held-out items, with intervals; the verdict's in colour.

    Args:
        study: A study or a run folder.
        ax: Axes to draw into.
        models: Whether parents and base are drawn too; they are often far away.
    """
    run = _run(study)
    measured = held_out_models(run)
    ours = next((m for m in measured if m.trial.number == run.ours), None)
    rivals = [m for m in measured if m is not ours and (models or m.trial.kind not in MODELS)] or [
        m for m in measured if m is not ours
    ]
    if ours is None or not rivals:
        raise UserError(f"{run.folder}: there is no verdict on held-out items yet: call confirm()")
    ax = axes(ax, (7.2, 1.1 + _ROW * len(rivals)))
    rests_on = judged(run)
    for row, rival in enumerate(reversed(rivals)):
        c = against(run, ours, rival)
        colour = SEARCH if rival.trial.number in rests_on else OTHER
        ax.plot([c.low, c.high], [row, row], c=colour)
        ax.plot([c.difference], [row], "s", c=colour, ms=6)
        text = signed_interval(c.difference, c.low, c.high)
        ax.annotate(
            text, (1.02, row), xycoords=("axes fraction", "data"), va="center", fontsize=8.5
        )
    ax.axvline(0, c=INK, lw=1)
    ax.set_yticks(range(len(rivals)), [m.trial.name for m in reversed(rivals)])
    ax.grid(False, axis="y")
    ax.set_xlabel(f"{ours.trial.name} minus the other, held-out items, 95 % intervals")
    return ax


def coefficients(
    study: Source, ax: Any = None, parameter: str = "weight", component: str = "attention"
) -> Any:
    """Draw a parameter of the recommended recipe (else the leader's) by model and layer.

    Args:
        study: A study or a run folder.
        ax: Axes to draw into.
        parameter: The parameter.
        component: ``attention``, ``mlp`` or ``norm``, each by one of its tensors.
    """
    run = _run(study)
    leader = run.record.leader
    if run.recommended is not None:
        trial = run.record.trials[run.recommended]
    elif leader is not None:
        trial = run.record.trials[leader.trial]
    else:
        raise UserError(f"{run.folder}: no candidate has been scored yet")
    recipe = recipe_view.recorded(trial.recipe)
    if component not in recipe_view.LAYER_PARTS:
        known = ", ".join(recipe_view.LAYER_PARTS)
        raise UserError(f"component: expected one of {known}, but got {component!r}")
    depth = run.depth or recipe_view.depth_of(recipe)
    spots = [spot for spot in recipe_view.spots(depth) if spot.component == component]
    names = short_names(recipe_view.models(recipe))
    rows = {
        name: [recipe_view.value(recipe, parameter, model, spot, depth) for spot in spots]
        for model, name in names.items()
    }
    table = {
        name: [math.nan if v is None else float(scalars(v)[0]) for v in row]
        for name, row in rows.items()
        if any(v is not None for v in row)
    }
    if not table:
        raise UserError(f"{trial.name}: its recipe gives no model the parameter {parameter!r}")
    ax = axes(ax, (7.2, 1.0 + _ROW * len(table)))
    top = max(1e-9, *(abs(v) for row in table.values() for v in row if not math.isnan(v)))
    image = ax.imshow(list(table.values()), aspect="auto", cmap=colours(), vmin=-top, vmax=top)
    ax.figure.colorbar(image, ax=ax)
    ax.set_yticks(range(len(table)), list(table))
    ax.grid(False)
    ax.set(xlabel="layer", title=f"{parameter} of {trial.name}, {component}")
    ax.locator_params(axis="x", integer=True)
    return ax


def importance(study: Source, ax: Any = None, most: int = 12) -> Any:
    """Draw the importance of what dimensions set, at whatever depth, as bars.

    Args:
        study: A study or a run folder.
        ax: Axes to draw into.
        most: How many bars.
    """
    run = _run(study)
    shown = dimensions(run)
    if shown is None or shown.measure == "apart":
        raise UserError(
            f"{run.folder}: too few trials to say which dimensions matter, or none predicts"
            " the gain"
        )
    groups = list(shown.groups.items())[:most][::-1]
    ax = axes(ax, (7.2, 0.9 + _ROW * len(groups)))
    bars = ax.barh([name for name, _ in groups], [100 * share for _, share in groups], color=SEARCH)
    ax.bar_label(bars, fmt="%.1f", padding=3, fontsize=8.5)
    ax.grid(False, axis="y")
    ax.set_xlabel(
        "importance, % of the fall of the loss"
        if shown.measure == "path"
        else "importance, % of what is explained"
    )
    return ax


def pareto(study: Source, ax: Any = None, objectives: tuple[int, int] = (0, 1)) -> Any:
    """Draw gains on two objectives: the front numbered, the reference at (0, 0).

    Args:
        study: A study or a run folder, with ``objective: pareto``.
        ax: Axes to draw into.
        objectives: Which two, in the order of the tasks of positive weight.
    """
    run = _run(study)
    front = front_of(run.record)
    if front is None:
        raise UserError(f"{run.folder}: this study has one objective; set search.objective: pareto")
    names = [task for task, spec in run.record.tasks_of("search").items() if spec["weight"] > 0]
    i, j = objectives
    gains = {
        n: vector
        for ask in run.record.generations.values()
        for n, vector in zip(ask.trials, ask.objectives or (), strict=False)
        if vector is not None
    }
    ax = axes(ax, (5.2, 4.2))
    others = [gains[n] for n in gains if n not in front["trials"]]
    ax.scatter([v[i] for v in others], [v[j] for v in others], s=14, c=OTHER, label="others")
    ahead = sorted(front["trials"], key=lambda n: -math.fsum(gains[n]))
    x, y = [gains[n][i] for n in ahead], [gains[n][j] for n in ahead]
    ax.scatter(x, y, s=32, c=SEARCH, marker="s", label="on the front")
    for place, at in enumerate(zip(x, y, strict=True), 1):
        ax.annotate(str(place), at, xytext=(5, 4), textcoords="offset points", fontsize=8)
    ax.scatter([0], [0], s=50, c=BASELINE, label="reference anchor", zorder=3)
    ax.axhline(0, c=OTHER, lw=0.8)
    ax.axvline(0, c=OTHER, lw=0.8)
    ax.set(xlabel=f"gain on {names[i]}", ylabel=f"gain on {names[j]}")
    ax.legend(fontsize=8.5, frameon=False)
    return ax


def path(study: Source, ax: Any = None, most: int = 6) -> Any:
    """Draw how the most important dimensions moved: each generation's best trial, in its range.

    Args:
        study: A study or a run folder.
        ax: Axes to draw into.
        most: How many dimensions.
    """
    run = _run(study)
    shown = dimensions(run)
    if shown is None or not shown.strips:
        raise UserError(
            f"{run.folder}: too few trials have been scored, or no dimension is a number"
        )
    space = list(run.record.dimensions)
    names = dict(zip(space, named(space, run.depth), strict=True))
    history = [g for g in generations(run) if g.optimized]
    points = [(g.number, run.record.trials[g.best.trial].point) for g in history]
    ax = axes(ax, (7.2, 3.4))
    for k, strip in enumerate(shown.strips[:most]):
        index = space.index(strip.dimension)
        line = [(n, strip.dimension.position(p[index])) for n, p in points if p is not None]
        ax.plot(*zip(*line, strict=True), c=RUNS[k % len(RUNS)], label=names[strip.dimension])
    ax.set(xlabel="generation", ylabel="position in the range", ylim=(-0.03, 1.03))
    ax.locator_params(axis="x", integer=True)
    ax.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False)
    return ax


def _run(study: Source) -> Run:
    return Run.read(study if isinstance(study, str | Path) else study.directory)
