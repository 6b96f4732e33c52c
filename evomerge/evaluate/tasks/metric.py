"""Chooses the metric of a task, and reads its value on one document."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from typing import Any

from evomerge.core.errors import UserError, unknown
from evomerge.evaluate.outcomes import LARGEST_SCORE

# Aggregations under which a task's score is the mean of its documents' values.
ADDITIVE = ("mean", "nanmean")
# Rolling tasks give (log-likelihood, length) per document; lm-eval weights documents by length.
PER_LENGTH = ("word_perplexity", "byte_perplexity", "bits_per_byte")


@dataclass(frozen=True)
class Metric:
    """A task's metric.

    Attributes:
        name: lm-eval's name, e.g. ``exact_match``.
        higher_is_better: Its direction.
        filter: The answer filter it is read through; ``none`` for most tasks.
    """

    name: str
    higher_is_better: bool
    filter: str = "none"


def choose_metric(name: str, task: Any, wanted: str | None, source: Path | None) -> Metric:
    """Find the wanted metric of a task (lm-eval's object), or its first that fits one document.

    Args:
        name: The task's name.
        task: lm-eval's task.
        wanted: ``metric`` or ``metric,filter``; ``None`` for the first.
        source: The task's file, for messages.
    """
    of_task = f" of task '{name}'" + (f" ({source})" if source else "")
    known = list(task.aggregation())
    usable = [metric for metric in known if _is_additive(metric, task)]
    filters = [ensemble.name for ensemble in task._filters]
    metric, _, chosen = (wanted or "").partition(",")
    if chosen and chosen not in filters:
        raise UserError(unknown(f"filter{of_task}", chosen, filters))
    if metric and metric not in known:
        raise UserError(unknown(f"metric{of_task}", metric, known))
    if metric and metric not in usable:
        raise UserError(
            f"metric '{metric}'{of_task} cannot be read off single documents; "
            f"metrics that can: {', '.join(usable) or 'none'}"
        )
    if not metric and not usable:
        raise UserError(
            f"expected a metric{of_task} that can be read off single documents, "
            f"but it only has {', '.join(known) or 'none'}"
        )
    metric = metric or usable[0]
    higher = task.higher_is_better().get(metric, True)
    return Metric(metric, bool(higher), chosen or filters[0])


def value_of(task: str, metric: Metric, values: Mapping[str, Any]) -> float | None:
    """Return the metric's number on one document; ``None`` where the task gave none (or NaN).

    A rolling metric is in its own unit, but for this document alone.
    """
    value = values.get(metric.name)
    if metric.name in PER_LENGTH and isinstance(value, tuple):
        log_likelihood, length = value
        nats = -float(log_likelihood) / max(int(length), 1)
        return nats / math.log(2) if metric.name == "bits_per_byte" else math.exp(min(nats, 700.0))
    if value is None:
        return None
    if not isinstance(value, Real):
        raise UserError(
            f"task '{task}': metric '{metric.name}' gives a {type(value).__name__} for a document "
            "where a number was expected; choose another metric"
        )
    number = float(value)
    if math.isfinite(number) and abs(number) > LARGEST_SCORE:
        raise UserError(
            f"task '{task}': metric '{metric.name}' gives {number:g} for a document: expected at "
            f"most {LARGEST_SCORE:g}, since sums would not be finite; choose another metric"
        )
    return number if math.isfinite(number) else None


def _is_additive(metric: str, task: Any) -> bool:
    if metric in PER_LENGTH:
        return bool(task.OUTPUT_TYPE == "loglikelihood_rolling")
    aggregation = task.aggregation()[metric]
    ours = getattr(aggregation, "__module__", "") == "lm_eval.api.metrics"
    return ours and aggregation.__name__ in ADDITIVE
