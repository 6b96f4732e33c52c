"""The intervals of experiments/optimizer_benchmark's table."""

import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

FILE = Path(__file__).parents[2] / "experiments" / "optimizer_benchmark" / "summarise.py"


@pytest.fixture(scope="module")
def summarise() -> ModuleType:
    spec = importlib.util.spec_from_file_location("summarise", FILE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_six_differences_are_between_their_smallest_and_largest(summarise):
    # 2^6 patterns of signs: .025 of them is 1.6, so the outermost mean on either side is left out.
    assert summarise.interval([1.0, 2.0, 3.0, 4.0, 5.0, 7.0]) == (1.0, 7.0)
    assert summarise.interval([1.0, 2.0, 3.0, 4.0, 5.0]) is None


def test_an_interval_leaves_out_zero_exactly_when_p_is_at_most_a_twentieth(summarise):
    rng = np.random.default_rng(0)
    refused = 0
    for _ in range(100):
        differences = rng.normal(0.6, 1, size=8).tolist()
        low, high = summarise.interval(differences)
        refused += low > 0 or high < 0
        assert (low > 0 or high < 0) == (summarise.sign_flip(differences) <= 0.05)
    assert 10 < refused < 90


def test_intervals_hold_the_true_mean_as_often_as_they_say(summarise):
    rng = np.random.default_rng(1)
    intervals = [summarise.interval(rng.laplace(size=8).tolist()) for _ in range(1000)]
    # Binomial(1000, .953): within four standard deviations.
    assert 926 < sum(low <= 0 <= high for low, high in intervals) < 980
