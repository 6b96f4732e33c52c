"""The verdict compares the race's winner, on held-out items, with what needed no search.

The winner is compared with the best parent and with the best anchor, item by item. "Best" is what
scores highest on these very held-out items: that rival's luck counts against the winner, never for
it. An improvement is announced only if both intervals lie wholly above 0, and the winner keeps the
study's constraints on these items. The winner itself was chosen on other items, so its own score
here is fair.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from evomerge.study.statistics.comparison import Comparison, Entrant, compare
from evomerge.study.statistics.constraints import ConstraintResult
from evomerge.study.statistics.outcome import Tasks, fitness, scores

Kind = Literal["trial", "anchor", "parent"]
_KINDS: Mapping[str, Kind] = {"base": "parent", "parent": "parent", "anchor": "anchor"}


@dataclass(frozen=True)
class Candidate:
    """A trial that the verdict names; `kind` is ``trial``, ``anchor`` or ``parent``."""

    kind: str
    trial: int
    digest: str
    name: str


@dataclass(frozen=True, kw_only=True)
class RivalComparison(Comparison):
    """The race's winner against one rival, which is trial number `trial` and called `against`."""

    against: str
    kind: str
    trial: int


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """The judgement of a study, as ``verdict.json`` has it.

    Attributes:
        winner: The trial that is recommended and exported.
        race_winner: The trial that won the race and was compared here, often the same.
        improvement_shown: Whether it beats what needed no search.
        sentence: The verdict in words.
        scores: By name and task; ``winner`` is the recommended trial, and ``race_winner`` is there
            if it is another.
        comparisons: The race's winner with the best parent and the best anchor.
        confidence: That all the comparisons' intervals hold together (Bonferroni).
        note: How the differences and intervals are to be read.
        unscored: Parents and anchors that could not be scored on the held-out items.
        constraints: The race's winner by each of the study's constraints.
        reproduce: The command that measures the exported model; ``None`` where there is none.
    """

    winner: Candidate
    race_winner: Candidate
    improvement_shown: bool
    sentence: str
    scores: Mapping[str, Mapping[str, float]]
    comparisons: tuple[RivalComparison, ...]
    confidence: float = 0.95
    note: str = ""
    unscored: tuple[str, ...] = ()
    constraints: tuple[ConstraintResult, ...] = ()
    reproduce: str | None


def verdict(
    winner: Entrant,
    rivals: Sequence[Entrant],
    tasks: Tasks,
    confidence: float = 0.95,
    constraints: Mapping[int, Sequence[ConstraintResult]] | None = None,
    kept_in_race: bool = False,
    unscored: Sequence[str] = (),
) -> Verdict:
    """Judge the race's winner.

    If no improvement is shown, the best parent or anchor is what is recommended, the one that did
    best in the race; unless the race threw all of them out, which leaves its winner, unconfirmed.
    A winner that breaks a constraint here is not recommended while a parent or an anchor keeps all.

    Args:
        winner: The race's winner.
        rivals: Parents, base and anchors with outcomes for the same items; may hold the winner.
        tasks: The study's tasks: directions and weights.
        confidence: That all the comparisons' intervals hold together (Bonferroni).
        constraints: With constraints, each entrant's results on the held-out items, by trial.
        kept_in_race: Whether the winner keeps them on the race's items.
        unscored: Parents and anchors that could not be scored on these items. While there are
            any, no improvement is shown: nothing says that the winner beats them.
    """
    simple = [rival for rival in rivals if rival.kind in _KINDS]
    twin = next((rival for rival in simple if rival.digest == winner.digest), None)
    kind = _KINDS.get((twin or winner).kind, "trial")
    others = [rival for rival in simple if rival.digest != winner.digest]
    against = [best for group in ("parent", "anchor") if (best := _best(others, group, tasks))]
    level = 1 - (1 - confidence) / max(1, len(against))
    comparisons = [compare(winner.rows, rival.rows, tasks, level) for rival in against]
    tables = constraints or {}
    breaks = broken(tables.get(winner.trial, ()))
    better = kind == "trial" and bool(against) and all(c.low > 0 for c in comparisons)
    shown = better and not breaks and not unscored
    if breaks:
        recommended = _best_keeping(winner, others, tables, tasks)
    else:
        recommended = winner if shown or kind != "trial" else _fallback(winner, others)
    if breaks:
        measured = _measured(winner, against, comparisons, confidence)
        sentence = _broken_sentence(winner, breaks, kept_in_race, recommended, measured)
    else:
        sentence = _sentence(winner, kind, shown, recommended, against, comparisons, confidence)
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
        comparisons=tuple(
            RivalComparison(
                **vars(c), against=rival.name, kind=_KINDS[rival.kind], trial=rival.trial
            )
            for rival, c in zip(against, comparisons, strict=True)
        ),
        confidence=confidence,
        note=_note(len(against), level, confidence, tasks),
        unscored=tuple(unscored),
        constraints=tuple(tables[winner.trial]) if tables else (),
        reproduce=None,
    )


def broken(results: Sequence[ConstraintResult]) -> str:
    """Return the constraints that are broken, in words.

    >>> broken([ConstraintResult("qa >= base", score=0.5, limit=0.625, kept=False)])
    'qa >= base (0.5000, the limit is 0.6250)'
    """
    return ", ".join(
        f"{result.constraint} ({result.score:.4f}, the limit is {result.limit:.4f})"
        for result in results
        if not result.kept
    )


def _best(rivals: Sequence[Entrant], group: Kind, tasks: Tasks) -> Entrant | None:
    """Return the highest of its group on the held-out items, the first of equals."""
    members = [rival for rival in rivals if _KINDS[rival.kind] == group]
    return max(members, key=lambda rival: fitness(rival.rows, tasks, "metric"), default=None)


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


_NOUNS: Mapping[Kind, str] = {"parent": "the best parent", "anchor": "the best simple merge"}


def _sentence(
    winner: Entrant,
    kind: Kind,
    shown: bool,
    recommended: Entrant,
    against: Sequence[Entrant],
    comparisons: Sequence[Comparison],
    confidence: float,
) -> str:
    """Return the verdict in words, for someone who reads nothing else."""
    if shown:
        gains = _joined([f"{_rival(r)} by {_gain(c)}" for r, c in _pairs(against, comparisons)])
        return (
            f"Improvement shown on {comparisons[0].items:,} held-out items: {winner.name} beats "
            f"{gains}; {_confidence(comparisons, confidence)}."
        )
    if kind != "trial":
        return f"No improvement shown: the race was won by {winner.name}, which needs no search."
    if not against:
        return "No improvement shown: there was no parent or anchor to compare with."
    if recommended is not winner:
        advice = f"The best baseline in the race, {recommended.name}, is recommended instead"
    elif any(rival.race_score is not None for rival in against):
        advice = "It is still recommended, since the race eliminated every parent and anchor"
    else:
        advice = "It is still recommended, since no parent or anchor took part in the race"
    measured = _measured(winner, against, comparisons, confidence)
    items = comparisons[0].items
    return f"No improvement shown on {items:,} held-out items: {measured}. {advice}."


def _broken_sentence(
    winner: Entrant,
    breaks: str,
    kept_in_race: bool,
    recommended: Entrant,
    measured: str,
) -> str:
    """Return the verdict on a winner that breaks a constraint, in words."""
    advice = (
        f"{recommended.name}, which needs no search, keeps every constraint and is recommended"
        if recommended is not winner
        else "It is still recommended, since no parent or anchor keeps every constraint"
    )
    return (
        f"No improvement shown: on held-out items {winner.name} breaks {breaks}"
        f"{', which it keeps on those of the race' if kept_in_race else ''}. {advice}. "
        f"Constraints aside, {measured}."
    )


def _measured(
    winner: Entrant,
    against: Sequence[Entrant],
    comparisons: Sequence[Comparison],
    confidence: float,
) -> str:
    """Return the winner's differences to its rivals, in words."""
    if not against:
        return "there was no parent or anchor to compare with"
    gains = _joined([f"{_gain(c)} against {_rival(r)}" for r, c in _pairs(against, comparisons)])
    return f"{winner.name} scores {gains}; {_confidence(comparisons, confidence)}"


def _pairs(
    against: Sequence[Entrant], comparisons: Sequence[Comparison]
) -> list[tuple[Entrant, Comparison]]:
    """Return rivals with their comparisons, the hardest rival first."""
    pairs = list(zip(against, comparisons, strict=True))
    return sorted(pairs, key=lambda pair: pair[1].difference)


def _rival(rival: Entrant) -> str:
    return f"{_NOUNS[_KINDS[rival.kind]]} ({rival.name})"


def _gain(comparison: Comparison) -> str:
    return f"{comparison.difference:+.3f} [{comparison.low:+.3f}, {comparison.high:+.3f}]"


def _joined(phrases: Sequence[str]) -> str:
    return " and ".join(phrases)


def _confidence(comparisons: Sequence[Comparison], confidence: float) -> str:
    level = f"{100 * confidence:g} %"
    return f"both {level}, joint" if len(comparisons) > 1 else f"{level} interval"


def _note(comparisons: int, level: float, confidence: float, tasks: Tasks) -> str:
    over = "" if len(tasks) == 1 else " and averaged over the tasks by weight"
    several = (
        f" Each of the {comparisons} intervals has {100 * level:.4g} % confidence, so that all of "
        f"them hold together with {100 * confidence:g} % (Bonferroni)."
        if comparisons > 1
        else ""
    )
    return (
        f"Differences are paired by item{over}; positive means that the winner is better.{several} "
        "Best parent and best anchor are the highest on these same items, which counts against "
        "the winner. Confidence holds for one verdict: not for the best of several studies that "
        "look at the same held-out items."
    )
