"""Complementarity by hand, and an importance that finds what was planted, or says nothing."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from evomerge.report.explain import explanation, explanation_text
from evomerge.study.analysis.complement import complement
from evomerge.study.analysis.importance import importance
from evomerge.study.journal.codec import parse
from evomerge.study.journal.record import Record
from tests.report import report_bench as bench

NAMES = ["models[a].weight[0]", "models[a].weight[1]", "models[b].weight[0]", "models[b].weight[1]"]


def parents(*answers: list[int], kind: str = "parent") -> Record:
    """A record whose anchors are parents with these right and wrong answers."""
    record = Record()
    tasks = {"t": {"metric": "acc", "higher_is_better": True, "weight": 1.0}}
    dimensions = [
        {"name": n, "kind": "float", "low": 0.0, "high": 2.0, "log": False, "choices": ()}
        | {"group": n[:-3]}  # without its knot
        for n in NAMES
    ]
    record.apply(parse(bench.study(tasks=tasks, dimensions=dimensions)))
    about = {"generation": None, "point": None, "recipe": {}, "kind": kind}
    asked = [
        {**about, "trial": i, "index": i, "name": f"p{i}", "digest": f"d{i}"}
        for i in range(len(answers))
    ]
    record.apply(
        parse({"event": "asked", "trials": asked, "items": {"t": [*range(len(answers[0]))]}})
    )
    for i, values in enumerate(answers):
        rows = [["t", j, float(v), None, 0, 1] for j, v in enumerate(values)]
        event = {"event": "outcomes", "trial": i, "phase": "anchors", "digest": f"d{i}"}
        record.apply(parse({**event, "mode": "metric", "rows": rows, "seconds": {}, "worker": "0"}))
    return record


def test_oracle_and_discordance_by_hand() -> None:
    result = complement(parents([1, 1, 0, 0], [1, 0, 1, 0], [1, 0, 0, 0]))
    assert result is not None
    assert result["best"] == {"name": "p0", "score": 0.5}
    assert result["oracle"] == 0.75
    assert result["pairs"][0] == {"a": "p0", "b": "p1", "oracle": 0.75, "discordance": 0.5}
    assert result["pairs"][1]["discordance"] == 0.25
    assert "could gain +0.250" in explanation_text(explanation(parents([1, 1, 0, 0], [1, 0, 1, 0])))


def test_parents_that_fail_alike_have_nothing_to_gain() -> None:
    result = complement(parents([1, 0, 1, 0], [1, 0, 1, 0]))
    assert result is not None
    assert result["oracle"] == result["best"]["score"]
    assert result["pairs"][0]["discordance"] == 0
    assert complement(parents([1, 0], [0, 1], kind="anchor")) is None
    assert complement(Record()) is None


def searched(gain: Any, trials: int = 120) -> Record:
    record = parents([1, 0], [0, 1])
    draws = np.random.default_rng(0)
    about = {"generation": 0, "recipe": {}, "kind": "trial"}
    points = draws.uniform(0, 2, (trials, 4)).tolist()
    numbers = list(range(10, 10 + trials))
    asked = [
        {**about, "trial": n, "index": i, "name": "", "digest": f"t{n}", "point": p}
        for i, (n, p) in enumerate(zip(numbers, points, strict=True))
    ]
    record.apply(parse({"event": "asked", "trials": asked, "items": {"t": [0]}}))
    fitness = [float(gain(p, draws)) for p in points]
    result = {"event": "told", "generation": 0, "trials": numbers, "fitness": fitness}
    record.apply(parse({**result, "reference": {"trial": 0, "fitness": 0.5}, "correlation": None}))
    return record


def test_planted_importances_are_found() -> None:
    # On [0, 2] evenly, (x - 1)^2 has the variance 4/45 and x that of 1/3: with 3 before the square
    # and 1 before x the shares are .8 : .333, so .706 and .294.
    result = importance(searched(lambda p, _: -3 * (p[1] - 1) ** 2 + p[2], trials=600))
    assert result is not None
    assert result["predicted"] > 0.9
    assert list(result["dimensions"])[:2] == ["models[a].weight[1]", "models[b].weight[0]"]
    assert result["dimensions"]["models[a].weight[1]"] == pytest.approx(0.706, abs=0.05)
    assert result["groups"]["models[b].weight"] == pytest.approx(0.294, abs=0.05)
    assert sum(result["dimensions"].values()) == pytest.approx(1)


def test_if_gains_are_chance_no_parameter_is_said_to_matter() -> None:
    record = searched(lambda _, draws: draws.standard_normal())
    result = importance(record)
    assert result is not None
    assert result["predicted"] < 0.05
    assert "none is said to matter" in explanation_text(explanation(record))
    assert importance(searched(lambda p, _: p[0], trials=19)) is None


def test_optuna_s_importances_stand_beside_ours_and_find_the_same() -> None:
    result = explanation(searched(lambda p, _: -3 * (p[1] - 1) ** 2 + p[2], trials=120))
    assert set(result["optuna"]) == {"ped_anova", "fanova"}
    for shares in result["optuna"].values():
        assert set(list(shares)[:2]) == {"models[a].weight[1]", "models[b].weight[0]"}
        assert sum(shares.values()) == pytest.approx(1)
    # the shares that a variance decomposition has: .706 and .294 (see above)
    assert result["optuna"]["fanova"]["models[a].weight[1]"] == pytest.approx(0.706, abs=0.1)
    assert "Optuna's PED-ANOVA" in explanation_text(result)
    assert explanation(searched(lambda p, _: p[0], trials=19))["optuna"] == {}
