"""Shows the race as a table: each candidate's score by rung, and when it was eliminated."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from evomerge.report.numbers import number
from evomerge.report.run import Run
from evomerge.study.journal.events import RacedEvent


def last_race(run: Run) -> list[tuple[RacedEvent, int]]:
    """Return the rungs of the latest race, each with its number of items.

    A study that was extended races again; then the earlier race is history.
    """
    races = run.record.races
    started = max((i for i, event in enumerate(races) if event.rung == 0), default=0)
    return list(zip(races[started:], run.race_items[started:], strict=True))


def section(run: Run) -> dict[str, Any]:
    """Return rungs as columns, candidates as rows, who stayed longest first."""
    rungs = last_race(run)
    if not rungs:
        return {"missing": "The race has not been decided on any item yet."}
    trials = run.record.trials
    fate: dict[int, int] = {}  # trial -> the rung that put it out
    for event, _ in rungs:
        fate |= dict.fromkeys(event.out, event.rung)
    final, winner = rungs[-1][0], rungs[-1][0].winner
    candidates = list(dict.fromkeys(n for event, _ in rungs for n in event.scores))
    raced_trials = list(dict.fromkeys([*final.contenders, *candidates]))

    def order(n: int) -> tuple[bool, int, float]:
        score = max((rung.rung for rung, _ in rungs if n in rung.scores), default=-1)
        last_score = next((rung.scores[n] for rung, _ in reversed(rungs) if n in rung.scores), 0.0)
        return (n != winner, -score, -last_score)

    rows = [
        {
            "name": trials[n].name,
            "kind": trials[n].kind,
            "ours": n == winner,
            "cells": [(number(rung.scores.get(n)), n in rung.out) for rung, _ in rungs],
            "fate": _fate(n, winner, fate, candidates),
        }
        for n in sorted(raced_trials, key=order)
    ]
    return {
        "rungs": [{"rung": rung.rung + 1, "items": items} for rung, items in rungs],
        "rows": rows,
        "open": winner is None,
        "chosen": [
            _chosen(trials[choice.trial].name, choice.reason) for choice in run.record.chosen
        ],
        "earlier": sum(rung.rung == 0 for rung in run.record.races) - 1,
        "pool": sum(map(len, run.pools.get("race", {}).values())),
    }


def _chosen(name: str, reason: str) -> str:
    return f"{name[:1].upper()}{name[1:]} is taken: {reason}."


def _fate(n: int, winner: int | None, fate: Mapping[int, int], compared: list[int]) -> str:
    if n == winner:
        return "won"
    if n in fate:
        return f"out at rung {fate[n] + 1}"
    if n not in compared:
        return "could not be scored"
    return "still in" if winner is None else "stayed in, lower score"
