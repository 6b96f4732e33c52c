"""The verdict compares the race's winner, on held-out items, with what needed no search.

The winner is compared with every parent and with the best anchors, item by item, and an improvement
is announced only if each of the intervals lies wholly above 0. So the intervals need not hold
jointly: whoever announces a false improvement is wrong about at least one rival, and that rival's
interval alone errs in at most 2.5 % of studies on the winner's side (an intersection-union test,
Berger 1982, https://doi.org/10.1080/00401706.1982.10487790). Nor is a rival chosen by luck, since
all are compared. The winner itself was chosen on other items, so its own score here is fair.

A study that searches on and comes back with another winner looks at the same held-out items again.
The k-th winner that is judged on them, k > 1, gets the tail 2.5 % / (k (k - 1)); these add up to
2.5 %, so that all verdicts of a study together announce a false improvement with at most 5 %.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from evomerge.study.statistics import verdict_words as words
from evomerge.study.statistics.comparison import Clusters, Entrant, RivalComparison, compare
from evomerge.study.statistics.constraints import ConstraintResult
from evomerge.study.statistics.outcome import Tasks, fitness, scores
from evomerge.study.statistics.overfit import Overfit
from evomerge.study.statistics.verdict_html import verdict_html

Kind = Literal["trial", "anchor", "parent"]
CONFIDENCE = 0.95  # of the intervals at the first look
_KINDS: Mapping[str, Kind] = {"base": "parent", "parent": "parent", "anchor": "anchor"}


@dataclass(frozen=True)
class Candidate:
    """A trial that the verdict names; `kind` is ``trial``, ``anchor`` or ``parent``."""

    kind: str
    trial: int
    digest: str
    name: str


@dataclass(frozen=True, kw_only=True, repr=False)
class Verdict:
    """The judgement of a study, as ``verdict.json`` has it.

    Attributes:
        winner: The trial that is recommended and exported.
        race_winner: The trial that won the race and was compared here, often the same.
        improvement_shown: Whether it beats what needed no search.
        sentence: The verdict in words.
        scores: By name and task; ``winner`` is the recommended trial, and ``race_winner`` is there
            if it is another.
        comparisons: The race's winner with the best parent and the best anchor, and with each
            other one that it was not shown to beat though it beats the best.
        confidence: Of each comparison's interval.
        note: How the differences and intervals are to be read.
        unscored: Parents and anchors that could not be scored on the held-out items.
        constraints: The race's winner by each of the study's constraints.
        reproduce: The command that measures the exported model; ``None`` where there is none.
        look: How many winners have been judged on these held-out items, this one included; 0 where
            an earlier version did not count them.
        rivals: With how many parents and anchors the winner was compared.
        guaranteed: Whether the promised rate of false announcements holds for these metrics;
            ``None`` where an earlier version did not say.
        overfit: The race's winner on items that it was fitted on beside held-out ones; ``None``
            where no step followed a gradient.
    """

    winner: Candidate
    race_winner: Candidate
    improvement_shown: bool
    sentence: str
    scores: Mapping[str, Mapping[str, float]]
    comparisons: tuple[RivalComparison, ...]
    confidence: float = CONFIDENCE
    note: str = ""
    unscored: tuple[str, ...] = ()
    constraints: tuple[ConstraintResult, ...] = ()
    reproduce: str | None
    look: int = 0
    rivals: int = 0
    guaranteed: bool | None = None
    overfit: Overfit | None = None

    def __repr__(self) -> str:
        return f"Verdict({self.sentence!r})"

    def _repr_html_(self) -> str:
        return verdict_html(self)


def verdict(
    winner: Entrant,
    rivals: Sequence[Entrant],
    tasks: Tasks,
    constraints: Mapping[int, Sequence[ConstraintResult]] | None = None,
    kept_in_race: bool = False,
    unscored: Sequence[str] = (),
    look: int = 1,
    clusters: Clusters | None = None,
) -> Verdict:
    """Judge the race's winner.

    If no improvement is shown, the best parent or anchor is what is recommended, the one that did
    best in the race; unless the race threw all of them out, which leaves its winner, unconfirmed.
    A winner that breaks a constraint here is not recommended while a parent or an anchor keeps all.

    Args:
        winner: The race's winner.
        rivals: Parents, base and anchors with outcomes for the same items; may hold the winner.
        tasks: The study's tasks: directions and weights.
        constraints: With constraints, each entrant's results on the held-out items, by trial.
        kept_in_race: Whether the winner keeps them on the race's items.
        unscored: Parents and anchors that could not be scored on these items. While there are
            any, no improvement is shown: nothing says that the winner beats them.
        look: Counts the winners that have been judged on these items, this one included.
        clusters: Those that held-out items are in; ``None``: all stand alone.
    """
    simple = [rival for rival in rivals if rival.kind in _KINDS]
    twin = next((rival for rival in simple if rival.digest == winner.digest), None)
    kind = _KINDS.get((twin or winner).kind, "trial")
    others = [rival for rival in simple if rival.digest != winner.digest]
    level = confidence_at(look)
    against = _against(winner, others, tasks, level, clusters)
    tables = constraints or {}
    breaks = broken(tables.get(winner.trial, ()))
    better = kind == "trial" and bool(against) and all(c.low > 0 for c in against)
    shown = better and not breaks and not unscored
    if breaks:
        recommended = _best_keeping(winner, others, tables, tasks)
    else:
        recommended = winner if shown or kind != "trial" else _fallback(winner, others)
    if breaks:
        sentence = words.broken_constraint(
            winner, against, level, breaks, kept_in_race, recommended
        )
    elif shown:
        sentence = words.shown(winner, against, level)
    elif kind != "trial":
        sentence = (
            f"No improvement shown: the race was won by {winner.name}, which needs no search."
        )
    elif not against:
        sentence = "No improvement shown: there was no parent or anchor to compare with."
    else:
        sentence = words.not_shown(winner, against, level, _advice(winner, recommended, others))
    if unscored:
        sentence += (
            f" Could not be scored on the held-out items, so nothing is shown against them: "
            f"{', '.join(unscored)}."
        )
    race_winner_scores = (
        {} if recommended is winner else {"race_winner": scores(winner.rows, tasks)}
    )
    return Verdict(
        winner=_candidate(recommended, kind if recommended is winner else None),
        race_winner=_candidate(winner, kind),
        improvement_shown=shown,
        sentence=sentence,
        scores={rival.name: scores(rival.rows, tasks) for rival in rivals}
        | {"winner": scores(recommended.rows, tasks), **race_winner_scores},
        comparisons=against,
        confidence=level,
        note=words.note(against, len(others), level, look, tasks),
        unscored=tuple(unscored),
        constraints=tuple(tables[winner.trial]) if tables else (),
        reproduce=None,
        look=look,
        rivals=len(others),
        guaranteed=bool(against) and all(c.guaranteed for c in against),
    )


def confidence_at(look: int) -> float:
    """Return the confidence of the k-th winner's intervals on the same held-out items.

    >>> [round(confidence_at(look), 5) for look in (1, 2, 3, 4)]
    [0.95, 0.975, 0.99167, 0.99583]
    """
    return 1 - (1 - CONFIDENCE) / max(1, look * (look - 1))


def broken(results: Sequence[ConstraintResult]) -> str:
    """Return the constraints that are broken, in words.

    >>> broken([ConstraintResult("qa >= base", score=0.5, limit=0.625, kept=False)])
    'qa >= base (0.500, the limit is 0.625)'
    """
    return ", ".join(
        f"{result.constraint} ({result.score:.3f}, the limit is {result.limit:.3f})"
        for result in results
        if not result.kept
    )


def _against(
    winner: Entrant,
    rivals: Sequence[Entrant],
    tasks: Tasks,
    confidence: float,
    clusters: Clusters | None,
) -> tuple[RivalComparison, ...]:
    """Compare the winner with all rivals; returns the comparisons that the verdict rests on.

    These are the highest parent and the highest anchor here, the first of equals, and every other
    rival that is not beaten while the highest of its kind is.
    """
    best: list[RivalComparison] = []
    others: list[RivalComparison] = []
    for kind in ("parent", "anchor"):
        members = [rival for rival in rivals if _KINDS[rival.kind] == kind]
        members.sort(key=lambda rival: -fitness(rival.rows, tasks, "metric"))
        compared = [
            RivalComparison(
                **vars(compare(winner.rows, rival.rows, tasks, confidence, clusters)),
                against=rival.name,
                kind=kind,
                trial=rival.trial,
            )
            for rival in members
        ]
        best += compared[:1]
        others += [c for c in compared[1:] if c.low <= 0 < compared[0].low]
    return (*best, *others)


def _fallback(winner: Entrant, simple: Sequence[Entrant]) -> Entrant:
    """Return the parent or anchor that did best in the race, or else the winner."""
    stood = [rival for rival in simple if rival.race_score is not None and not rival.raced_out]
    return max(stood, key=lambda rival: rival.race_score or 0.0, default=winner)


def _best_keeping(
    winner: Entrant,
    simple: Sequence[Entrant],
    tables: Mapping[int, Sequence[ConstraintResult]],
    tasks: Tasks,
) -> Entrant:
    """Return the parent or anchor that keeps all constraints and did best, or the winner.

    Those that did not take part in the race come last, by their score here.
    """
    keeping = [rival for rival in simple if not broken(tables[rival.trial])]

    def order(rival: Entrant) -> tuple[bool, float]:
        if rival.race_score is not None:
            return True, rival.race_score
        return False, fitness(rival.rows, tasks, "metric")

    return max(keeping, key=order, default=winner)


def _candidate(entrant: Entrant, kind: Kind | None) -> Candidate:
    return Candidate(kind or _KINDS[entrant.kind], entrant.trial, entrant.digest, entrant.name)


def _advice(winner: Entrant, recommended: Entrant, rivals: Sequence[Entrant]) -> str:
    """Say what to do where no improvement is shown."""
    if recommended is not winner:
        return f"The best baseline in the race, {recommended.name}, is recommended instead"
    if any(rival.race_score is not None for rival in rivals):
        return "It is still recommended, since the race eliminated every parent and anchor"
    return "It is still recommended, since no parent or anchor took part in the race"
