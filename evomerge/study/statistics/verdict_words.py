"""Says a verdict in words: a sentence for all who read nothing else, and a note on the numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from evomerge.study.statistics.comparison import Entrant, RivalComparison
from evomerge.study.statistics.outcome import Tasks, bounds

_UNITS = {"layers": "{:g} layers", "parameters": "{:.4g} million parameters"}
_NOUNS = {"parent": "the best parent", "anchor": "the best simple merge"}


class Size(NamedTuple):
    """A candidate's name, its size as counted, and its seconds in the model for each item."""

    name: str
    counts: Mapping[str, float]
    seconds: float | None


def sizes_in_words(sizes: Sequence[Size]) -> str:
    """Say what each candidate takes; nothing if none was counted.

    >>> sizes_in_words([Size("a", {"layers": 9.0}, 0.0041), Size("b", {"layers": 6.0}, None)])
    ' Size and time: a 9 layers, 4.1 ms an item; b 6 layers.'
    """
    if not sizes:
        return ""
    texts = []
    for size in sizes:
        words = [_UNITS[key].format(abs(value)) for key, value in size.counts.items()]
        words += [] if size.seconds is None else [f"{1000 * size.seconds:.2g} ms an item"]
        texts.append(f"{size.name} {', '.join(words)}")
    return f" Size and time: {'; '.join(texts)}."


def shown(winner: Entrant, against: Sequence[RivalComparison], confidence: float) -> str:
    """Say what the winner beats."""
    gains = " and ".join(f"{who} by {gain}" for who, gain in _gains(against))
    return (
        f"Improvement shown on {against[0].items:,} held-out items: {winner.name} beats {gains}; "
        f"{_confidence(against, confidence)}."
    )


def not_shown(
    winner: Entrant, against: Sequence[RivalComparison], confidence: float, advice: str
) -> str:
    """Say by how much the winner is ahead or behind, and what to do now."""
    return (
        f"No improvement shown on {against[0].items:,} held-out items: "
        f"{_measured(winner, against, confidence)}. {advice}."
    )


def broken_constraint(
    winner: Entrant,
    against: Sequence[RivalComparison],
    confidence: float,
    breaks: str,
    kept_in_race: bool,
    recommended: Entrant,
) -> str:
    """Say what the winner breaks, what to do now, and how it does otherwise."""
    advice = (
        f"{recommended.name}, which needs no search, keeps every constraint and is recommended"
        if recommended is not winner
        else "It is still recommended, since no parent or anchor keeps every constraint"
    )
    return (
        f"No improvement shown: on held-out items {winner.name} breaks {breaks}"
        f"{', which it keeps on those of the race' if kept_in_race else ''}. {advice}. "
        f"Constraints aside, {_measured(winner, against, confidence)}."
    )


def note(
    against: Sequence[RivalComparison], rivals: int, confidence: float, look: int, tasks: Tasks
) -> str:
    """Say how the differences and intervals are to be read, and what they promise."""
    if not against:
        return ""
    counted = {task: spec for task, spec in tasks.items() if spec["weight"] > 0}
    over = "" if len(counted) == 1 else " and averaged over the tasks by weight"
    tail = f"{50 * (1 - confidence):.3g} %"
    sentences = [
        f"Differences are paired by item{over}; positive means that the winner is better.",
        f"It was compared with {rivals} parents and simple merges, and has to beat each of them: "
        f"if it is no better than one, an improvement is announced in at most {tail} of studies.",
    ]
    if look > 1:
        sentences.append(
            f"This is winner number {look} that is judged on these held-out items, so its "
            f"intervals have {100 * confidence:.4g} % confidence: all verdicts of the study "
            "together announce a false improvement with at most 5 %."
        )
    first = against[0]
    if first.units < first.items:
        sentences.append(
            f"The {first.items:,} items belong together in {first.units:,} clusters, which count "
            "as one observation each."
        )
    if not first.guaranteed:
        sentences.append(_doubt(counted))
    sentences.append(
        "This holds for the verdicts of one study: not for the best of several studies that look "
        "at the same held-out items."
    )
    return " ".join(sentences)


def _doubt(tasks: Tasks) -> str:
    """Say why the intervals are approximate, and what to do about it."""
    unbounded = [f"{spec['metric']} of {task}" for task, spec in tasks.items() if not bounds(spec)]
    if not unbounded:
        return (
            "These rates are approximate: scores lie outside the bounds of their metric, so the "
            "range of the scores that were seen stands for the bounds."
        )
    return (
        f"These rates are approximate: no bounds are known for {', '.join(unbounded)}, so the "
        "range of the scores that were seen stands for them, and rare items that lose much more "
        "would not be noticed. A task's `bounds: [low, high]` in the study file says them."
    )


def _measured(winner: Entrant, against: Sequence[RivalComparison], confidence: float) -> str:
    if not against:
        return "there was no parent or anchor to compare with"
    gains = " and ".join(f"{gain} against {who}" for who, gain in _gains(against))
    return f"{winner.name} scores {gains}; {_confidence(against, confidence)}"


def _gains(against: Sequence[RivalComparison]) -> list[tuple[str, str]]:
    """Each rival and the gain over it, in words, the hardest rival first."""
    named = []
    for i, c in enumerate(against):
        is_best = c.kind not in [other.kind for other in against[:i]]
        who = f"{_NOUNS[c.kind]} ({c.against})" if is_best else c.against
        named.append((c.difference, who, f"{c.difference:+.3f} [{c.low:+.3f}, {c.high:+.3f}]"))
    return [(who, gain) for _, who, gain in sorted(named, key=lambda each: each[0])]


def _confidence(against: Sequence[RivalComparison], confidence: float) -> str:
    level = f"{100 * confidence:.4g} %"
    words = f"{level} intervals" if len(against) > 1 else f"{level} interval"
    return words if all(c.guaranteed for c in against) else f"{words}, approximate"
