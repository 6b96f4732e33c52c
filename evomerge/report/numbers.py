"""Writes numbers and names as people read them."""

from __future__ import annotations

import math
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import PurePath

NONE = "–"


def number(value: float | None, sign: bool = False) -> str:
    """Return a score with four significant places at most; a dash for ``None``.

    >>> number(0.80112), number(-12.3456), number(0.0464, sign=True)
    ('0.801', '−12.35', '+0.046')
    >>> number(-0.0001, sign=True)
    '+0.000'
    """
    if value is None or not math.isfinite(value):
        return NONE
    size = abs(value)
    digits = 3 if size < 10 else 2 if size < 100 else 1 if size < 1000 else 0
    return f"{value:{'+' if sign else ''}z,.{digits}f}".replace("-", "−")


def tiny(value: float) -> str:
    """Write a number that may be tiny, as a product with a power of ten.

    >>> tiny(0.0123), tiny(6.94e-05)
    ('0.012', '6.94 · 10⁻⁵')
    """
    if value == 0 or value >= 0.001:
        return number(value)
    digits, power = f"{value:.2e}".split("e")
    return f"{digits} · 10" + str(int(power)).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))


def interval(low: float, high: float) -> str:
    """Return both ends of an interval of differences.

    >>> interval(-0.02, 0.0677)
    '[−0.020, +0.068]'
    """
    return f"[{number(low, sign=True)}, {number(high, sign=True)}]"


def signed_interval(difference: float, low: float, high: float) -> str:
    """Return a difference and its interval, as everywhere.

    >>> signed_interval(0.0269, 0.0094, 0.0441)
    '+0.027 [+0.009, +0.044]'
    """
    return f"{number(difference, sign=True)} {interval(low, high)}"


def percent(share: float) -> str:
    """Return a share of 1 in percent; small ones are not rounded to 0.

    >>> percent(0.457), percent(0.0031), percent(0.0), percent(0.0001), percent(-0.02)
    ('46 %', '0.3 %', '0 %', '<0.1 %', '−2.0 %')
    """
    value = 100 * share
    if 0 < value < 0.1:
        return "<0.1 %"
    digits = 1 if 0 < abs(value) < 9.95 else 0
    return f"{value:.{digits}f} %".replace("-", "−")


def size(count: float) -> str:
    """Return a number of bytes in units that people buy.

    >>> size(1_290_000), size(14_500_000_000), size(137e9)
    ('1.3 MB', '14 GB', '137 GB')
    """
    number, unit = (count / 1e9, "GB") if count >= 1e8 else (count / 1e6, "MB")
    return f"{number:.0f} {unit}" if number >= 9.95 else f"{number:.2g} {unit}"


def duration(seconds: float) -> str:
    """Return a time span in its two largest units.

    >>> duration(0.84), duration(59.7), duration(138), duration(7500), duration(200_000)
    ('0.8 s', '1 min', '2 min 18 s', '2 h 5 min', '2 d 8 h')
    """
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    for unit, inner, large, small in ((60, 1, "min", "s"), (3600, 60, "h", "min")):
        whole = round(seconds / inner)
        if whole * inner < unit:
            return f"{whole} {small}"
        if whole * inner < (3600 if unit == 60 else 86400):
            rest = (whole * inner % unit) // inner
            return f"{whole * inner // unit} {large}" + (f" {rest} {small}" if rest else "")
    hours = round(seconds / 3600)
    return f"{hours // 24} d {hours % 24} h"


def moment(time: float | None) -> str:
    """Return a moment in UTC, to the second.

    >>> moment(0)
    '1970-01-01 00:00:00 UTC'
    """
    if time is None:
        return NONE
    return f"{datetime.fromtimestamp(time, UTC):%Y-%m-%d %H:%M:%S} UTC"


def plural(count: int, noun: str) -> str:
    """Return a count and its noun.

    >>> plural(1, "item"), plural(1078, "item")
    ('1 item', '1,078 items')
    """
    return f"{count:,} {noun}" + ("" if count == 1 else "s")


def short_names(models: Iterable[str]) -> dict[str, str]:
    """Return the shortest end of each model's path that no other model's path has.

    >>> short_names(["/zoo/base", "a/x", "b/x"])
    {'/zoo/base': 'base', 'a/x': 'a/x', 'b/x': 'b/x'}
    """
    names: dict[str, str] = {}
    distinct = list(dict.fromkeys(models))
    for model in distinct:
        parts = PurePath(model).parts
        ends = ["/".join(parts[-n:]) for n in range(1, len(parts))]
        names[model] = next(
            (e for e in ends if sum(("/" + m).endswith("/" + e) for m in distinct) == 1), model
        )
    return names
