"""Says what a study wants of its workers, and cuts it into units of work."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from evomerge.evaluate.outcomes import ScoreKind
from evomerge.recipe.space.dimension import Point
from evomerge.study.journal.record import Record
from evomerge.study.journal.shards import gradient_shards, shards
from evomerge.study.journal.trials import TrialRecord
from evomerge.study.workers.queue import Unit
from evomerge.study.workers.requests import (
    Evaluate,
    EvaluateTogether,
    ExpectedParents,
    Failure,
    Gradient,
    Gradients,
    Scores,
    ScoresTogether,
)

Items = Mapping[str, Sequence[int]]
TOGETHER = 16  # candidates of a group, at most: a study of several workers has several groups
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
    """Asks for outcomes of trials on items, by ``smooth`` or ``metric``, filed under a phase.

    `together`: in groups of candidates that are scored side by side, as many as possible.
    """

    trials: Sequence[int]
    items: Items
    mode: ScoreKind
    phase: str
    gradient: WantedGradient | None = None
    together: bool = False


@dataclass(frozen=True)
class Tag:
    """Says what the answer to a unit is for; `together` are the trials of an `EvaluateTogether`."""

    trial: int
    mode: ScoreKind
    phase: str
    chain: Callable[[Gradients, Point], list[float]] | None = None
    together: tuple[int, ...] = ()


def units(
    record: Record, wanted: Wanted, shard_items: int, parents: ExpectedParents | None = None
) -> Iterator[Unit]:
    """List the work that the record lacks, cut into the study's shards.

    Args:
        record: The study's state.
        wanted: What is wanted of its workers.
        shard_items: The largest number of items of a shard.
        parents: What workers have to find.
    """
    trials = [record.trials[number] for number in wanted.trials]
    if wanted.together:
        yield from _groups(record, wanted, trials, shard_items, parents)
        return
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
                    request = Evaluate(trial.recipe, [missing], wanted.mode, parents=parents)
                    yield Unit(trial.digest, request, tag)
        else:
            about = wanted.gradient
            tag = Tag(trial.number, wanted.mode, wanted.phase, about.chain)
            for part in gradient_shards(wanted.items):
                if record.gradients.of(trial.digest, part) is None:
                    settings = (about.loss, about.weights, about.piecewise, about.lines)
                    gradient = Gradient(trial.recipe, part, *settings, parents=parents)
                    yield Unit(trial.digest, gradient, tag)


def _groups(
    record: Record,
    wanted: Wanted,
    trials: Sequence[TrialRecord],
    shard_items: int,
    parents: ExpectedParents | None,
) -> Iterator[Unit]:
    """List the shards of groups of candidates; who is in a group depends on the trials alone.

    So a resumed study rounds as one that was not interrupted: a group with an outcome that the
    record lacks is scored whole.
    """
    distinct = list({trial.digest: trial for trial in reversed(trials)}.values())[::-1]
    for start in range(0, len(distinct), TOGETHER):
        group = distinct[start : start + TOGETHER]
        tag = Tag(
            group[0].number,
            wanted.mode,
            wanted.phase,
            together=tuple(trial.number for trial in group),
        )
        recipes = [trial.recipe for trial in group]
        for shard in shards(wanted.items, shard_items):
            if any(
                not has_failed(trial, wanted.phase)
                and record.outcomes.missing(trial.digest, wanted.mode, shard)
                for trial in group
            ):
                subject = f"together {group[0].digest}"
                request = EvaluateTogether(recipes, shard, wanted.mode, parents=parents)
                yield Unit(subject, request, tag)


def apart(record: Record, unit: Unit, shard_items: int) -> Iterator[Unit]:
    """List what a unit comes to if each of its candidates is built by itself."""
    if not unit.tag.together:
        yield unit
        return
    assert isinstance(unit.request, EvaluateTogether)
    wanted = Wanted(unit.tag.together, unit.request.items, unit.tag.mode, unit.tag.phase)
    yield from units(record, wanted, shard_items, unit.request.parents)


def parts_of(
    record: Record, unit: Unit, answer: ScoresTogether
) -> Iterator[tuple[Unit, Scores | Failure, int | None]]:
    """Take apart the answer to a group; each candidate took its share of the time.

    Returns:
        For each candidate that the record lacks outcomes of, the unit that it would have been by
        itself, what is new of it, and how many went side by side (``None`` if it was built).
    """
    request = unit.request
    assert isinstance(request, EvaluateTogether)
    reasons = {number: Failure(kind, message) for number, kind, message in answer.failures}
    seconds = {part: spent / len(answer.counts) for part, spent in answer.seconds.items()}
    beside = len(answer.counts) - len(answer.apart)
    start = 0
    for i, (number, count) in enumerate(zip(unit.tag.together, answer.counts, strict=True)):
        rows, start = answer.rows[start : start + count], start + count
        trial = record.trials[number]
        missing = record.outcomes.missing(trial.digest, request.mode, request.items)
        if has_failed(trial, unit.tag.phase) or not (missing or unit.again):
            continue
        new = [row for row in rows if unit.again or row[1] in missing.get(row[0], ())]
        scores = Scores(
            rows=new,
            batches=answer.batches if len(new) == count else (),
            errors=[error[1:] for error in answer.errors if error[0] == i],
            seconds=seconds,
            halvings=answer.halvings,
            rescored=answer.rescored,
        )
        single = Unit(
            trial.digest,
            Evaluate(trial.recipe, [request.items], request.mode),
            replace(unit.tag, trial=number, together=()),
            unit.again,
        )
        yield single, reasons.get(i, scores), None if i in answer.apart else beside


def has_failed(trial: TrialRecord, phase: str) -> bool:
    """Return whether a trial has no score in a phase, for a reason that lies in its recipe."""
    failure = trial.failure
    return failure is not None and failure.phase == phase and failure.kind not in LOST
