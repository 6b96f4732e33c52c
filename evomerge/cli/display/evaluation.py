"""Shows an evaluation: how far it is, then scores and differences as a table of lines."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from evomerge.cli.display.lines import show
from evomerge.report.numbers import duration, number, plural, short_names, signed_interval
from evomerge.study.evaluation.evaluation import ALL, Evaluation, Progress
from evomerge.study.statistics.comparison import Comparison
from evomerge.study.statistics.mean_interval import Estimate

_QUIET_SECONDS = 10.0  # between two lines of progress
_SHOWN = 3


class EvaluationProgress:
    """Says how far it is: in a line that changes on a terminal, else in lines from time to time.

    Args:
        say: Shows that line, see `lines.working`; without it there are lines on a terminal too.
    """

    def __init__(self, say: Callable[[str], None] | None = None) -> None:
        self._say = say
        self._said = 0.0

    def __call__(self, progress: Progress) -> None:
        """Take in how far it is."""
        is_done = progress.scored == progress.items > 0
        if self._say is not None:
            self._say(_progress_text(progress))
            if sys.stderr.isatty() and not is_done:
                return
        at_an_end = progress.scored in (progress.stored, progress.items)
        if not at_an_end and time.monotonic() - self._said < _QUIET_SECONDS:
            return
        self._said = time.monotonic()
        show(_progress_text(progress))


def _progress_text(p: Progress) -> str:
    if not p.items:
        return f"{p.model}: loading model and tasks"
    new = p.scored - p.stored
    if not new:
        stored = f", {p.stored:,} of them stored" if p.stored else ""
        return f"{p.model}: {plural(p.items, 'item')}{stored}"
    left = p.seconds / new * (p.items - p.scored)
    text = f"{p.model}: {p.scored:,} of {p.items:,}, {new / max(p.seconds, 1e-9):.3g} items/s"
    return text + (f", {duration(left)} left" if left else "")


def evaluation_text(evaluation: Evaluation) -> str:
    """Return scores and differences in lines of text; ends without a newline."""
    names = short_names(model.name for model in evaluation.models)
    labels = {task: _label(task, evaluation) for task in evaluation.models[0].scores}
    width = max(map(len, labels.values()))
    lines = []
    for model in evaluation.models:
        lines.append(names[model.name])
        for task, one in model.scores.items():
            n = sum(len(ids) for t, ids in model.values.items() if task in (ALL, t))
            lines.append(f"  {labels[task]:<{width}}  {_score(one, n)}")
        lines += [f"  warning: counted as wrong: {error}" for error in model.errors[:_SHOWN]]
        if len(model.errors) > _SHOWN:
            lines.append(f"  warning: ... and {len(model.errors) - _SHOWN} more")
    first = names[evaluation.models[0].name]
    for compared, differences in evaluation.differences.items():
        lines += ["", f"{names[compared]} minus {first}, item by item; positive is better"]
        lines += [f"  {labels[t]:<{width}}  {_difference(d)}" for t, d in differences.items()]
    approximate = [
        task for task, one in evaluation.models[0].scores.items() if task and not one.guaranteed
    ]
    lines += ["", "intervals are 95 %, each for itself" + _approximate(approximate)]
    return "\n".join(lines)


def _label(task: str, evaluation: Evaluation) -> str:
    if task == ALL:
        return "mean"
    metric = evaluation.tasks[task]
    return f"{task} ({metric['metric']}{'' if metric['higher_is_better'] else ', less is better'})"


def score_text(one: Estimate) -> str:
    """Return a score with its interval."""
    return f"{number(one.score)} [{number(one.low)}, {number(one.high)}]"


def _score(one: Estimate, items: int) -> str:
    joined = "" if one.units == items else f", {one.units:,} independent"
    return f"{score_text(one)} on {plural(items, 'item')}{joined}"


def _difference(one: Comparison) -> str:
    return (
        f"{signed_interval(one.difference, one.low, one.high)}, "
        f"better on {one.wins:,}, worse on {one.losses:,}, alike on {one.ties:,}"
    )


def _approximate(tasks: Sequence[str]) -> str:
    if not tasks:
        return ""
    return f"; approximate for {', '.join(tasks)}, whose scores have no bounds"


def evaluation_data(evaluation: Evaluation) -> dict[str, Any]:
    """Return the same as plain data, for JSON; ``mean`` stands for all tasks together."""
    return {
        "tasks": evaluation.tasks,
        "items": {task: len(ids) for task, ids in evaluation.items.items()},
        "models": [
            {
                "model": model.name,
                "scores": _named(model.scores),
                "errors": list(model.errors),
                "values": model.values,
            }
            for model in evaluation.models
        ],
        "differences": [
            {"model": model, "minus": evaluation.models[0].name, "by_task": _named(by_task)}
            for model, by_task in evaluation.differences.items()
        ],
        "warnings": list(evaluation.warnings),
    }


def _named(by_task: Mapping[str, Any]) -> dict[str, Any]:
    return {task or "mean": vars(one) for task, one in by_task.items()}
