"""Writes lines of text about a run's parents and the dimensions of its space."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from evomerge.report.landscape import landscape_lines
from evomerge.report.numbers import number, percent, plural
from evomerge.study.analysis.complement import complement
from evomerge.study.analysis.importance import importance
from evomerge.study.analysis.optuna_mirror import importances
from evomerge.study.journal.record import Record

_SHOWN = 8


def explanation(record: Record) -> dict[str, Any]:
    """Return the parents' complementarity and the dimensions' importance; None where unknown.

    Beside our importance stand Optuna's, {evaluator: {dimension: share}}.
    """
    ours = importance(record)
    theirs = importances(record) if ours is not None else {}
    return {"complement": complement(record), "importance": ours, "optuna": theirs}


def explanation_text(explained: Mapping[str, Any]) -> str:
    """Return the same for a terminal, and the landscape if there is one; ends without a newline."""
    lines = [*complement_lines(explained["complement"]), "", *_dimensions(explained["importance"])]
    lines += _optuna(explained["optuna"]) if explained["importance"] else []
    if "landscape" in explained:
        lines += ["", *landscape_lines(explained["landscape"])]
    return "\n".join(lines)


def complement_lines(parents: dict[str, Any] | None) -> list[str]:
    """Return the parents' complementarity in words."""
    if parents is None:
        return ["parents: not scored item by item yet"]
    best, room = parents["best"], parents["oracle"] - parents["best"]["score"]
    lines = [
        f"parents, on {plural(parents['items'], 'item')}: the best, {best['name']}, scores "
        f"{number(best['score'])}; the best parent of each item {number(parents['oracle'])}, so a "
        f"choice among them could gain {number(room, sign=True)} (a merge may do more, or less)"
    ]
    lines += [
        f"  {pair['a']} + {pair['b']}: {number(pair['oracle'])}, "
        f"they differ on {percent(pair['discordance'])}"
        for pair in parents["pairs"][:_SHOWN]
    ]
    return lines


def _dimensions(importances: dict[str, Any] | None) -> list[str]:
    if importances is None:
        return ["dimensions: too few trials to say which matter"]
    share, trials = importances["predicted"], plural(importances["trials"], "trial")
    if share <= 0:
        return [
            f"dimensions: over {trials} no dimension predicts the gain of held-out trials, so "
            "none is said to matter"
        ]
    lines = [
        f"dimensions: over {trials} they predict {percent(share)} of the differences in gain; "
        "shares of that:"
    ]
    lines += [f"  {percent(v):>5} {k}" for k, v in list(importances["groups"].items())[:_SHOWN]]
    lines += ["the largest single ones:"]
    lines += [f"  {percent(v):>5} {k}" for k, v in list(importances["dimensions"].items())[:_SHOWN]]
    return lines


def _optuna(by_evaluator: Mapping[str, Mapping[str, float]]) -> list[str]:
    """Return Optuna's two answers to the same question, as a check on ours."""
    names = {
        "ped_anova": "Optuna's PED-ANOVA (what sets the best tenth apart)",
        "fanova": "Optuna's fANOVA (a forest's variance)",
    }
    return [
        f"{names[evaluator]}: "
        + ", ".join(f"{percent(share)} {name}" for name, share in list(shares.items())[:4])
        for evaluator, shares in by_evaluator.items()
    ]
