"""Describes trials as a journal knows them: one by one, and as they were asked together."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from evomerge.study.journal.events import FailedEvent
from evomerge.study.journal.outcomes import Items

State = Literal["asked", "scored", "failed", "told"]


@dataclass(frozen=True)
class Standing:
    """A trial of the search with its fitness, and how far that is above the reference anchor's.

    Attributes:
        trial: Its number.
        fitness: As the optimizer received it, higher is better; comparable within a generation.
        gain: Fitness minus that of the reference anchor on the same items, which makes trials of
            different generations comparable; ``None`` without a reference.
        breaks: Whether it breaks a constraint.
    """

    trial: int
    fitness: float
    gain: float | None
    breaks: bool

    @property
    def value(self) -> float:
        """The gain, or the fitness without a reference."""
        return self.fitness if self.gain is None else self.gain

    @property
    def rank(self) -> tuple[bool, float, int]:
        """Larger is better: constraints first, then the gain (or the fitness), then the earlier."""
        return not self.breaks, self.value, -self.trial


@dataclass(frozen=True)
class TrialRecord:
    """One trial as far as the journal knows it.

    Attributes:
        number: Unique in the study, in the order of asking.
        kind: ``parent``, ``base``, ``anchor``, ``trial`` or ``mean``.
        name: For people, e.g. ``uniform average`` or ``trial 17``.
        generation: Counted from 0; None outside the search.
        index: Its place among those asked together.
        point: A value for every dimension, or None if it is no point of the space.
        recipe: The whole recipe.
        digest: The recipe's digest; outcomes belong to it, so equal recipes share them.
        state: ``asked``, then ``scored`` (all its items have outcomes), ``told`` (the optimizer
            has its fitness) or ``failed``.
        fitness: As the optimizer got it.
        failure: The last failure, also of a trial that has a fitness (it failed in the race, say).
    """

    number: int
    kind: str
    name: str
    generation: int | None
    index: int
    point: tuple[Any, ...] | None
    recipe: Mapping[str, Any]
    digest: str
    state: State = "asked"
    fitness: float | None = None
    failure: FailedEvent | None = None


@dataclass(frozen=True)
class AskRecord:
    """Trials asked together: a generation, or a set of anchors (`generation` is None).

    Attributes:
        generation: Counted from 0, or None.
        trials: Their numbers.
        items: What all of them are scored on, or None if that is not fixed.
        fitness: As the optimizer received it, in the order of `trials`; None before.
        correlation: Rank correlation of smooth score and metric, over anchors and leaders so far.
        reference: Fitness of the reference anchor on the same items; None before.
        objectives: With several objectives, each trial's gain over the reference on each of them.
        violations: With constraints, how far each trial breaks them; 0 where it keeps all.
        gradients: For an optimizer that follows gradients, each trial's derivative of the loss
            along each dimension.
        loss_correlation: Rank correlation of minus the loss with the metric, over checked steps.
    """

    generation: int | None
    trials: tuple[int, ...]
    items: Items | None
    fitness: tuple[float | None, ...] | None = None
    correlation: float | None = None
    reference: float | None = None
    objectives: tuple[tuple[float, ...] | None, ...] | None = None
    violations: tuple[float | None, ...] | None = None
    gradients: tuple[tuple[float, ...] | None, ...] | None = None
    loss_correlation: float | None = None

    def standings(self) -> Iterator[Standing]:
        """Yield every trial of it that has a fitness, with its gain over the reference anchor."""
        violations = self.violations or (0.0,) * len(self.trials)
        for number, fitness, violation in zip(
            self.trials, self.fitness or (None,) * len(self.trials), violations, strict=True
        ):
            if fitness is not None:
                gain = None if self.reference is None else fitness - self.reference
                yield Standing(number, fitness, gain, bool(violation))
