"""What a run says about its parents and its space, in a few lines of text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from evomerge.report.landscape import landscape_lines
from evomerge.report.numbers import number, percent, plural
from evomerge.report.optuna_mirror import importances
from evomerge.study.analysis.complement import complement
from evomerge.study.analysis.importance import importance
from evomerge.study.journal.record import Record

_SHOWN = 8


def explanation(record: Record) -> dict[str, Any]:
    """The parents' complementarity and the dimensions' importance, as data; None where unknown.

    Beside our importance stand Optuna's, {evaluator: {dimension: share}}.
    """
    ours = importance(record)
    theirs = importances(record) if ours is not None else {}
    return {"complement": complement(record), "importance": ours, "optuna": theirs}


def explanation_text(told: Mapping[str, Any]) -> str:
    """The same for a terminal, and the landscape if there is one; ends without a newline."""
    lines = [*complement_lines(told["complement"]), "", *_dimensions(told["importance"])]
    lines += _optuna(told["optuna"]) if told["importance"] else []
    if "landscape" in told:
        lines += ["", *landscape_lines(told["landscape"])]
    return "\n".join(lines)


def complement_lines(found: dict[str, Any] | None) -> list[str]:
    """What the parents' complementarity means, in words."""
    if found is None:
        return ["parents: not scored item by item yet"]
    best, room = found["best"], found["oracle"] - found["best"]["score"]
    lines = [
        f"parents, on {plural(found['items'], 'item')}: the best, {best['name']}, scores "
        f"{number(best['score'])}; the best parent of each item {number(found['oracle'])}, so a "
        f"choice among them could gain {number(room, sign=True)} (a merge may do more, or less)"
    ]
    lines += [
        f"  {pair['a']} + {pair['b']}: {number(pair['oracle'])}, "
        f"they differ on {percent(pair['discordance'])}"
        for pair in found["pairs"][:_SHOWN]
    ]
    return lines


def _dimensions(found: dict[str, Any] | None) -> list[str]:
    if found is None:
        return ["dimensions: too few trials to tell which matter"]
    share = found["predicted"]
    if share <= 0:
        return [
            f"dimensions: over {plural(found['trials'], 'trial')} no dimension predicts the gain "
            "of trials held back, so none is said to matter"
        ]
    lines = [
        f"dimensions: over {plural(found['trials'], 'trial')} they predict {percent(share)} of the "
        "differences in gain; shares of that:"
    ]
    lines += [f"  {percent(v):>5} {k}" for k, v in list(found["groups"].items())[:_SHOWN]]
    lines += ["the largest single ones:"]
    lines += [f"  {percent(v):>5} {k}" for k, v in list(found["dimensions"].items())[:_SHOWN]]
    return lines


def _optuna(found: Mapping[str, Mapping[str, float]]) -> list[str]:
    """The same question put to Optuna: two answers that agree are worth more than either."""
    names = {
        "ped_anova": "Optuna's PED-ANOVA (what sets the best tenth apart)",
        "fanova": "Optuna's fANOVA (a forest's variance)",
    }
    return [
        f"{names[evaluator]}: "
        + ", ".join(f"{percent(share)} {name}" for name, share in list(shares.items())[:4])
        for evaluator, shares in found.items()
    ]
