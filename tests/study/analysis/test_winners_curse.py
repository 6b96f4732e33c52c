"""The expected winner's curse is the one that simulated searches have."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.stats import norm

from evomerge.study.analysis.winners_curse import largest_of, noise_of_means, winners_curse
from evomerge.study.journal.codec import parse
from evomerge.study.journal.record import Record
from tests.report import report_bench as bench


@pytest.mark.parametrize("n", [2, 10, 100, 1000])
def test_the_largest_of_n_is_blom_s_to_three_hundredths(n: int) -> None:
    exact, _ = quad(lambda x: x * n * norm.pdf(x) * norm.cdf(x) ** (n - 1), -9, 9)
    assert largest_of(n) == pytest.approx(exact, abs=0.03)


def test_noise_is_what_neither_candidates_nor_items_explain() -> None:
    draws = np.random.default_rng(0)
    tables = [
        draws.normal(size=(12, 1)) + 3 * draws.normal(size=(1, 40)) + draws.normal(size=(12, 40))
        for _ in range(300)
    ]
    assert np.mean([noise_of_means(t) for t in tables]) == pytest.approx(1 / 40, rel=0.05)


def search(
    seed: int, items: int, spread: float, candidates: int = 10, generations: int = 20
) -> Any:
    """A made-up search: true scores about .6, 0/1 outcomes; returns its record and true scores."""
    draws = np.random.default_rng(seed)
    record, true = Record(), {}
    record.apply(
        parse(
            bench.study(
                config={"evaluate": {"fitness": "metric"}},
                tasks={"t": {"metric": "acc", "higher_is_better": True, "weight": 1.0}},
                pools={},
            )
        )
    )
    for generation in range(generations):
        numbers = range(generation * candidates, (generation + 1) * candidates)
        ids = list(range(generation * items, (generation + 1) * items))
        about = {"generation": generation, "point": None, "recipe": {}, "kind": "trial"}
        asked = [
            {**about, "trial": n, "index": i, "name": f"trial {n}", "digest": f"d{n}"}
            for i, n in enumerate(numbers)
        ]
        record.apply(parse({"event": "asked", "trials": asked, "items": {"t": ids}}))
        fitness = []
        for n in numbers:
            true[n] = float(np.clip(draws.normal(0.6, spread), 0, 1))
            values = (draws.random(items) < true[n]).astype(float)
            fitness.append(float(values.mean()))
            rows = [["t", i, v, None, 0, 1] for i, v in zip(ids, values.tolist(), strict=True)]
            record.apply(
                parse(
                    {
                        "event": "outcomes",
                        "trial": n,
                        "phase": "search",
                        "digest": f"d{n}",
                        "mode": "metric",
                        "rows": rows,
                        "seconds": {},
                        "worker": "0",
                    }
                )
            )
        feedback = {"event": "told", "generation": generation, "trials": list(numbers)}
        record.apply(
            parse({**feedback, "fitness": fitness, "reference": None, "correlation": None})
        )
    return record, true


@pytest.mark.parametrize(("items", "spread"), [(50, 0.015), (50, 0.04), (100, 0.03)])
def test_the_best_of_simulated_searches_is_inflated_as_told(items: int, spread: float) -> None:
    best_scores, seen = [], []
    for seed in range(14):
        record, true = search(seed, items, spread)
        estimate = winners_curse(record)
        assert estimate is not None
        assert (estimate["candidates"], estimate["items"]) == (200, items)
        best_scores.append(estimate["expected"])
        best = max(true, key=lambda n: record.trials[n].fitness or 0.0)
        seen.append((record.trials[best].fitness or 0.0) - true[best])
    assert np.mean(best_scores) == pytest.approx(np.mean(seen), rel=0.2)


def test_a_search_of_three_candidates_says_nothing() -> None:
    record, _ = search(0, 20, 0.1, candidates=3, generations=1)
    assert winners_curse(record) is None
