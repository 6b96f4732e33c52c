"""Checks what a recipe must not lose, such as ``mmlu >= best parent - 0.01``.

A recipe that breaks one ranks below all that keep theirs, by how much it breaks it (Deb 2000,
https://doi.org/10.1016/S0045-7825(99)00389-8). During the search the score compared is the one
searched by (the smooth score, as a rule); in the race and on held-out items it is the metric.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from evomerge.core.errors import UserError, unknown
from evomerge.evaluate.outcomes import OutcomeRow, ScoreKind
from evomerge.study.statistics.outcome import Tasks, scores

_FORM = re.compile(
    r"\s*(?P<task>\S+)\s*(?P<sign>>=|<=)\s*"
    r"(?:(?P<than>best parent|best anchor|base)(?:\s*(?P<by>[+-]\s*\d*\.?\d+))?"
    r"|(?P<number>-?\d*\.?\d+))\s*"
)
_KINDS = {"best parent": "parent", "best anchor": "anchor", "base": "base"}
Rows = Sequence[OutcomeRow]


@dataclass(frozen=True)
class ConstraintResult:
    """A constraint with the score that it is about, its limit, and whether the score keeps it."""

    constraint: str
    score: float
    limit: float
    kept: bool


@dataclass(frozen=True)
class Constraint:
    """One line of `search.constraints`.

    Attributes:
        text: As it was written.
        task: The task whose mean score is compared, in the task's own direction.
        at_most: Whether the score may not exceed the limit (else it may not fall below it).
        than: ``best parent``, ``best anchor``, ``base``, or None for a number alone.
        offset: Added to what `than` scores; the limit itself where `than` is None.
    """

    text: str
    task: str
    at_most: bool
    than: str | None
    offset: float

    @classmethod
    def parse(cls, text: str, where: str, tasks: Sequence[str] | None = None) -> Constraint:
        """Read ``TASK >= best parent - 0.01``.

        Args:
            text: The constraint as it was written.
            where: Named in errors.
            tasks: Those of the study, or ``None`` if the task's name was checked before.

        Raises:
            UserError: It has another form, or names no task of the study.
        """
        match = _FORM.fullmatch(text)
        if match is None:
            raise UserError(
                f"{where}: expected TASK >= LIMIT or TASK <= LIMIT, where LIMIT is a number, or "
                f"one of best parent, best anchor, base, plus or minus a number; got {text!r}"
            )
        if tasks is not None and match["task"] not in tasks:
            raise UserError(f"{where}: {unknown('task', match['task'], tasks)}")
        number = match["number"] or (match["by"] or "0").replace(" ", "")
        return cls(text, match["task"], match["sign"] == "<=", match["than"], float(number))

    def limit(self, by_kind: Mapping[str, Sequence[float]]) -> float:
        """Return the limit, given what parents, base and anchors score on the task."""
        if self.than is None:
            return self.offset
        baseline_scores = by_kind[_KINDS[self.than]]
        best = min(baseline_scores) if self.at_most else max(baseline_scores)
        return best + self.offset

    def broken_by(self, value: float, limit: float) -> float:
        """Return the distance of a score on the wrong side of the limit.

        0 if it is on the right one.
        """
        return max(0.0, value - limit if self.at_most else limit - value)


class Limits:
    """Constraints with their limits on one set of items.

    Args:
        constraints: The study's.
        baseline: Kind (``parent``, ``base``, ``anchor``) and outcomes of each baseline recipe.
        tasks: The study's tasks.
        score_kind: The score that counts.
    """

    def __init__(
        self,
        constraints: Sequence[Constraint],
        baseline: Sequence[tuple[str, Rows]],
        tasks: Tasks,
        score_kind: ScoreKind,
    ) -> None:
        self._tasks, self._score_kind = tasks, score_kind
        by_kind: dict[str, dict[str, list[float]]] = {c.task: {} for c in constraints}
        for kind, rows in baseline if constraints else ():
            for task, score in scores(rows, tasks, score_kind).items():
                if task in by_kind:
                    by_kind[task].setdefault(kind, []).append(score)
        self._limits = [(c, c.limit(by_kind[c.task])) for c in constraints]

    def violation(self, rows: Rows) -> float:
        """Return the sum of what these outcomes, on the same items, break."""
        mine = scores(rows, self._tasks, self._score_kind)
        return sum(c.broken_by(mine[c.task], limit) for c, limit in self._limits)

    def violation_beside(self, rows: Rows, reference: Rows, known: Rows) -> float:
        """Return the same for outcomes on other items, by way of a reference scored on both.

        Args:
            rows: A candidate's, on a generation's items.
            reference: The reference anchor's, on those.
            known: The reference anchor's on the items of the limits.
        """
        ours, theirs, then = (
            scores(each, self._tasks, self._score_kind) for each in (rows, reference, known)
        )
        return sum(
            c.broken_by(then[c.task] + ours[c.task] - theirs[c.task], limit)
            for c, limit in self._limits
        )

    def results(self, rows: Rows) -> list[ConstraintResult]:
        """Hold these outcomes to each constraint."""
        mine = scores(rows, self._tasks, self._score_kind)
        return [
            ConstraintResult(
                c.text, mine[c.task], limit, kept=c.broken_by(mine[c.task], limit) == 0
            )
            for c, limit in self._limits
        ]


def demoted(
    values: Sequence[float | None], violations: Sequence[float | None]
) -> list[float | None]:
    """Return fitness with those that break constraints below all that keep them, the worst last.

    >>> demoted([0.9, 0.5, None, 0.6], [0.1, 0.0, None, 0.3])
    [0.4, 0.5, None, 0.2]
    """
    pairs = list(zip(values, violations, strict=True))
    scored = [value for value in values if value is not None]
    feasible = [value for value, broken_by in pairs if value is not None and not broken_by]
    floor = min(feasible or scored, default=0.0)
    return [
        value if value is None or not broken_by else round(min(floor, value) - broken_by, 12)
        for value, broken_by in pairs
    ]
