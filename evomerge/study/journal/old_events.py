"""Brings the documents of events that an earlier version wrote into today's form."""

from __future__ import annotations

from typing import Any


def upgraded(event: dict[str, Any]) -> dict[str, Any]:
    """Return an event in today's form: version 0.1.0 named a verdict's race winner only if it lost.

    It then stood under ``contender``, also among the scores.
    """
    if event["event"] != "verdict" or "race_winner" in event or "winner" not in event:
        return event
    event = {**event, "race_winner": event.get("contender") or event["winner"]}
    event.pop("contender", None)
    scores = event.get("scores")
    if isinstance(scores, dict) and "contender" in scores:
        renamed = {"contender": "race_winner"}
        event["scores"] = {renamed.get(name, name): of_task for name, of_task in scores.items()}
    return event
