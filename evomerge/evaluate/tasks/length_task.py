"""Measures the length of the answers to another task, in tokens; fewer is better.

A task of its own, with the documents of that task: so an objective, a constraint, the Pareto front
and the verdict have it like any other.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from evomerge.core.errors import UserError, unknown
from evomerge.evaluate.tasks.metric import Metric
from evomerge.evaluate.tasks.preparation import Prepared
from evomerge.evaluate.tasks.request import TaskRequest

ANSWER_TOKENS = "answer_tokens"  # as the type of the task's output
_LIMITS = ("max_gen_toks", "max_new_tokens", "max_tokens")  # as lm-eval reads them


@dataclass(frozen=True)
class LengthTask:
    """The mean number of tokens that a model writes, its thinking included, its end token not.

    Attributes:
        source: The task whose answers are measured.
        weight: Its weight in the objective.
        bounds: (0, most tokens of an answer); ``None`` if the task leaves that to lm-eval.
    """

    source: str
    weight: float
    bounds: tuple[float, float] | None

    metric = Metric("tokens", higher_is_better=False)


def length_task(request: TaskRequest, prepared: Mapping[str, Prepared]) -> LengthTask:
    """Make the task from a request whose `tokens_of` names one of the prepared tasks.

    Raises:
        UserError: There is no such task, or it generates nothing.
    """
    source = request.tokens_of or ""
    if source not in prepared:
        raise UserError(
            f"task '{request.name}': tokens_of: {unknown('task of the study', source, prepared)}"
        )
    task = prepared[source].task
    if task.OUTPUT_TYPE != "generate_until":
        raise UserError(
            f"task '{request.name}': tokens_of: '{source}' has no answers to measure: it is "
            f"{task.OUTPUT_TYPE}, not generate_until"
        )
    settings = task.config.generation_kwargs or {}
    limits = [settings[name] for name in _LIMITS if settings.get(name)]
    bounds = request.bounds or ((0.0, float(limits[0])) if limits else None)
    low, high = bounds or (0.0, 0.0)
    return LengthTask(source, request.weight, (low, high) if bounds else None)
