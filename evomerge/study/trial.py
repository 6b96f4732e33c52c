"""Shows a trial to Python code: its recipe, its parameters, and its results."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from evomerge.recipe.space.dimension import Value
from evomerge.study.journal.events import FailedEvent
from evomerge.study.journal.record import Record
from evomerge.study.journal.trials import AskRecord, State, TrialRecord
from evomerge.study.statistics.pareto import hypervolume, pareto_front

if TYPE_CHECKING:
    from evomerge.recipe.recipe import Recipe


class Trial:
    """One recipe of a study and its results so far; `Study.trials`, `Study.ask` hand them out.

    A view of the study's record, so it shows what becomes of the trial while the study runs.

    Attributes:
        number: Unique in the study, in the order of asking.
    """

    def __init__(self, record: Record, number: int) -> None:
        self.number = number
        self._study = record

    def __repr__(self) -> str:
        return f"Trial({self.number}, {self.name!r}, {self.state}, fitness={self.fitness})"

    def _repr_html_(self) -> str:
        from evomerge.study.display import trial_html

        return trial_html(self)

    @property
    def _trial(self) -> TrialRecord:
        return self._study.trials[self.number]

    @property
    def kind(self) -> str:
        """``parent``, ``base``, ``anchor``, ``trial`` or ``mean``."""
        return self._trial.kind

    @property
    def name(self) -> str:
        """For people, e.g. ``uniform average`` or ``trial 17``."""
        return self._trial.name

    @property
    def generation(self) -> int | None:
        """Counted from 0; None outside the search."""
        return self._trial.generation

    @property
    def state(self) -> State:
        """``asked``, ``scored``, ``told`` or ``failed``."""
        return self._trial.state

    @property
    def failure(self) -> FailedEvent | None:
        """Why it could not be scored (`kind`, `message`, `phase`), or None."""
        return self._trial.failure

    @property
    def digest(self) -> str:
        """The digest of its recipe."""
        return self._trial.digest

    @property
    def recipe(self) -> Recipe:
        """The whole recipe; `evomerge.build` makes a model of it."""
        from evomerge.recipe.recipe import Recipe  # brings torch, which no reader of a run needs

        return Recipe.from_dict(self._trial.recipe)

    @property
    def params(self) -> dict[str, Value]:
        """Its value of every dimension by name; empty if it is no point of the space."""
        point = self._trial.point or ()
        return {d.name: v for d, v in zip(self._study.dimensions, point, strict=False)}

    @property
    def fitness(self) -> float | None:
        """The fitness that the optimizer received, higher is better.

        Comparable within its generation.
        """
        return self._trial.fitness

    @property
    def gain(self) -> float | None:
        """Fitness minus that of the reference anchor on the same items.

        Comparable between generations, which see different items; still partly luck.
        """
        return self._study.gain(self.number)

    @property
    def scores(self) -> dict[str, float]:
        """Mean of each task on the items that it was asked for; see `Record.scores`."""
        return self._study.scores(self.number)

    @property
    def truncated(self) -> float | None:
        """Share in [0, 1] of its generated answers that ran into the length limit, or None."""
        written = self._study.written(self.number)
        return written.truncated / written.answers if written.answers else None

    @property
    def unextracted(self) -> float | None:
        """Share in [0, 1] of its generated answers in which no answer was found, or None."""
        written = self._study.written(self.number)
        return written.unextracted / written.answers if written.answers else None


def best_numbers(record: Record) -> list[int]:
    """Return the search's best trials by `Trial.gain` (by fitness where there is no reference).

    One number if the objective is one number, more if they are equal; with several objectives
    those that no other trial beats (the Pareto front).
    """
    scored = [t.number for t in record.trials.values() if t.fitness is not None]
    broken = {n for ask in record.asks for n in _broken(ask)}
    candidates = [number for number in scored if number not in broken] or scored
    vectors = [_values(Trial(record, number)) for number in candidates]
    return [candidates[i] for i in pareto_front(vectors)]


def front_of(record: Record) -> dict[str, Any] | None:
    """Return the Pareto front of gains over the reference by task; ``None`` without objectives.

    Returns:
        ``trials``, their numbers, and ``hypervolume``, of what they dominate above the reference.
        Both are of noisy scores on items that differ by generation: partly luck.
    """
    vectors: dict[int, Sequence[float]] = {}
    for ask in record.generations.values():
        broken_by = ask.violations or (0.0,) * len(ask.trials)
        judged = zip(ask.trials, ask.objectives or (), broken_by, strict=False)
        vectors |= {n: vector for n, vector, broken in judged if vector is not None and not broken}
    if not vectors:
        return None
    numbers = list(vectors)
    front = [numbers[i] for i in pareto_front([vectors[n] for n in numbers])]
    zero = [0.0] * len(vectors[numbers[0]])
    return {"trials": front, "hypervolume": hypervolume([vectors[n] for n in front], zero)}


def _broken(ask: AskRecord) -> list[int]:
    """Return trials that break a constraint."""
    return [n for n, by in zip(ask.trials, ask.violations or (), strict=False) if by]


def _values(trial: Trial) -> tuple[float, ...]:
    ask = trial._study.ask_of(trial.number)
    if ask.objectives is not None:
        vector = ask.objectives[ask.trials.index(trial.number)]
        assert vector is not None, "only trials with a fitness are compared"
        return vector
    value = trial.fitness if trial.gain is None else trial.gain
    assert value is not None, "only trials with a fitness are compared"
    return (value,)
