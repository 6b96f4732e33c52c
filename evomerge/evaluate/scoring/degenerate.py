"""Recognises answers that are none: blank ones, and repetitions that run into the length limit.

A broken merge writes such text whatever it is asked. One item's text is never enough to call a
merge broken: `evomerge.study.phases.degenerate` looks at all of a trial's.
"""

from __future__ import annotations

LEAST_CHARACTERS = 40  # of a text that may count as repeating itself: short answers never do
LEAST_TIMES = 4  # repetitions in the second half of such a text


def is_degenerate(text: str, truncated: bool) -> bool:
    """Return whether a generated text is blank, or ran into its length limit repeating itself.

    Args:
        text: The generated text, before its task's filters.
        truncated: Whether it ran into the limit without a stop.

    >>> is_degenerate(" ", truncated=False)
    True
    >>> is_degenerate("so it is " * 12, truncated=True)
    True
    >>> is_degenerate("so it is " * 12, truncated=False)
    False
    >>> is_degenerate("9" * 12, truncated=True)
    False
    """
    if not text.strip():
        return True
    return truncated and len(text) >= LEAST_CHARACTERS and _repeats(text[len(text) // 2 :])


def _repeats(tail: str) -> bool:
    """Return whether `tail` repeats a piece `LEAST_TIMES` times or more, the last perhaps cut."""
    period = _period(tail)
    return LEAST_TIMES * period <= len(tail)


def _period(text: str) -> int:
    """Return the smallest p >= 1 with text[i] == text[i + p] throughout (Knuth 1977, §2)."""
    border = [0] * len(text)  # of every prefix: the longest piece that begins it and ends it
    for i in range(1, len(text)):
        length = border[i - 1]
        while length and text[i] != text[length]:
            length = border[length - 1]
        border[i] = length + (text[i] == text[length])
    return len(text) - border[-1]
