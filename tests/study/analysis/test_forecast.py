import math

import numpy as np
import pytest
from scipy.special import ndtri

from evomerge.study.analysis.forecast import gain_shown
from evomerge.study.statistics.paired import chance

QUIZ = {"t": {"metric": "acc", "higher_is_better": True, "weight": 1.0}}


@pytest.mark.parametrize(("rivals", "share"), [(1, 0.5), (1, 0.8), (7, 0.5)])
def test_the_gain_that_is_forecast_is_shown_in_that_share_of_studies(rivals, share):
    n, studies = 600, 300
    gain = gain_shown({"t": n}, {"t": 1.0}, rivals, share)
    rng = np.random.default_rng(0)
    shared = math.cos(math.pi / 5)  # of latent normals: they differ in sign on a fifth of items
    accuracy = np.array([0.5] * rivals + [0.5 + gain])
    shown = 0
    for _ in range(studies):
        residual = rng.standard_normal((rivals + 1, n))
        z = math.sqrt(shared) * rng.standard_normal(n) + math.sqrt(1 - shared) * residual
        scores = (z < ndtri(accuracy)[:, None]).astype(float)
        p = (chance({"t": scores[-1]}, {"t": other}, QUIZ) for other in scores[:-1])
        shown += all(each < 0.025 for each in p)
    assert shown / studies == pytest.approx(share, abs=0.08)


def test_more_items_and_fewer_rivals_show_smaller_gains():
    gains = [
        gain_shown({"a": n, "b": n}, {"a": 1.0, "b": 3.0}, k) for n in (50, 500) for k in (7, 1)
    ]
    assert gains == sorted(gains, reverse=True)
    assert gain_shown({"a": 50}, {"a": 2.0, "b": 1.0}) == gain_shown({"a": 50}, {"a": 1.0})
