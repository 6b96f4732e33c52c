"""Writes lines of text about the landscape: the scores around a winner."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from evomerge.report.numbers import number, plural


def landscape_lines(landscape: Mapping[str, Any]) -> list[str]:
    """Return tables of the line, the slice and the parts; see `study.analysis.landscape`."""
    lines = [
        f"around {landscape['winner']}, by the {landscape['fitness']} score on "
        f"{plural(landscape['items'], 'item')} of the race's pool, which the search has "
        "not seen; gains are over the winner, paired, with a 95 % interval"
    ]
    if landscape["line"]:
        lines += ["", f"line from {landscape['start']} (0) through the winner (1) and beyond:"]
        lines += [_row(f"{at['position']:.2f}", at) for at in landscape["line"]]
        if landscape["barrier"] is not None:
            lines += [
                "  on the way it falls at most "
                f"{number(landscape['barrier'])} below the straight line"
            ]
    lines += ["", *_slice(landscape["slice"])]
    if landscape["parts"]:
        lines += ["", f"the winner with one part put back to {landscape['start']}:"]
        width = max(len(at["part"]) for at in landscape["parts"])
        lines += [_row(f"{at['part']:<{width}}", at) for at in landscape["parts"]]
    return lines


def _slice(landscape: Mapping[str, Any]) -> list[str]:
    names, values, scores = landscape["dimensions"], landscape["values"], landscape["scores"]
    if len(names) == 1:
        cells = zip(values[0], scores[0], strict=True)
        return [f"along {names[0]}:", *(f"  {_value(v):>8} {_score(s)}" for v, s in cells)]
    head = "  " + " " * 8 + "".join(f"{_value(value):>9}" for value in values[1])
    body = [
        f"  {_value(value):>8}" + "".join(f"{_score(score):>9}" for score in row)
        for value, row in zip(values[0], scores, strict=True)
    ]
    return [f"slice: {names[0]} downwards, {names[1]} to the right:", head, *body]


def _row(label: str, at: Mapping[str, Any]) -> str:
    if at["score"] is None:
        return f"  {label} {'failed':>9}"
    if at.get("position") == 1:
        return f"  {label} {_score(at['score']):>9}  the winner"
    gain, low, high = (number(at[key], sign=True) for key in ("gain", "low", "high"))
    return f"  {label} {_score(at['score']):>9}  {gain} [{low}, {high}]"


def _score(score: float | None) -> str:
    return "failed" if score is None else number(score)


def _value(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
