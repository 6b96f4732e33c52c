"""Reads time spans as a study file writes them."""

from __future__ import annotations

import re

from evomerge.core.errors import UserError


def seconds(text: str | None, where: str = "deadline") -> float | None:
    """Return the seconds of a time span such as ``90s``, ``45m`` or ``8h``; ``None`` for none.

    >>> seconds("1.5h")
    5400.0
    """
    if text is None:
        return None
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smhd])", str(text).strip())
    if not match:
        raise UserError(f"{where}: expected a time span such as 45m or 8h, but got {text!r}")
    return float(match[1]) * {"s": 1, "m": 60, "h": 3600, "d": 86400}[match[2]]
