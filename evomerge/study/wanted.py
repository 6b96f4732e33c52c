"""Says what a study wants of its workers, and cuts it into units of work."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from evomerge.evaluate.outcomes import ScoreKind
from evomerge.recipe.space.dimension import Point
from evomerge.study.journal.record import Record
from evomerge.study.journal.shards import gradient_shards, shards
from evomerge.study.journal.trials import TrialRecord
from evomerge.study.workers.queue import Unit
from evomerge.study.workers.requests import Evaluate, Gradient, Gradients

Items = Mapping[str, Sequence[int]]
LOST = {"infrastructure", "device"}  # failures that say nothing of the recipe


@dataclass(frozen=True)
class WantedGradient:
    """Asks for the gradient of a loss, beside outcomes.

    Attributes:
        loss: Its name.
        weights: The weight of one item of each task.
        piecewise: See `requests.Gradient`.
        lines: See `requests.Gradient`.
        chain: Turns an answer, and the trial's point, into the derivative along each dimension.
    """

    loss: str
    weights: Mapping[str, float]
    piecewise: bool
    lines: Mapping[str, str] | None
    chain: Callable[[Gradients, Point], list[float]]


@dataclass(frozen=True)
class Wanted:
    """Asks for outcomes of trials on items, by ``smooth`` or ``metric``, filed under a phase."""

    trials: Sequence[int]
    items: Items
    mode: ScoreKind
    phase: str
    gradient: WantedGradient | None = None


@dataclass(frozen=True)
class Tag:
    """Says what the answer to a unit is for."""

    trial: int
    mode: ScoreKind
    phase: str
    chain: Callable[[Gradients, Point], list[float]] | None = None


def units(record: Record, wanted: Wanted, shard_items: int) -> Iterator[Unit]:
    """List the work that the record lacks, cut into the study's shards."""
    trials = [record.trials[number] for number in wanted.trials]
    # Equal recipes are scored once and fail together, also when a study is resumed.
    settled = {trial.digest for trial in trials if has_failed(trial, wanted.phase)}
    for trial in trials:
        if trial.digest in settled:
            continue
        settled.add(trial.digest)
        if wanted.gradient is None:
            tag = Tag(trial.number, wanted.mode, wanted.phase)
            for shard in shards(wanted.items, shard_items):
                missing = record.outcomes.missing(trial.digest, wanted.mode, shard)
                if missing:
                    yield Unit(trial.digest, Evaluate(trial.recipe, [missing], wanted.mode), tag)
        else:
            about = wanted.gradient
            tag = Tag(trial.number, wanted.mode, wanted.phase, about.chain)
            for part in gradient_shards(wanted.items):
                if record.gradients.of(trial.digest, part) is None:
                    settings = (about.loss, about.weights, about.piecewise, about.lines)
                    yield Unit(trial.digest, Gradient(trial.recipe, part, *settings), tag)


def has_failed(trial: TrialRecord, phase: str) -> bool:
    """Return whether a trial has no score in a phase, for a reason that lies in its recipe."""
    failure = trial.failure
    return failure is not None and failure.phase == phase and failure.kind not in LOST
