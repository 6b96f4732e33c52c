import numpy as np
import pytest
from scipy import stats

from evomerge.study.statistics.weighted_mean import below, quantile


@pytest.mark.parametrize(
    ("won", "lost"), [(1, 0), (6, 2), (0, 5), (20, 8), (8, 20), (300, 200), (450, 150)]
)
def test_with_wins_and_losses_it_is_a_binomial_tail(won, lost):
    values, counts = np.array([-1.0, 0.0, 1.0]), np.array([lost + 1.0, 30.0, won])
    used = counts > 0
    assert below(values[used], counts[used], 0.0) == pytest.approx(
        stats.binom.sf(won - 1, won + lost, 0.5), rel=1e-9
    )


@pytest.mark.parametrize(("right", "n"), [(1, 1), (3, 10), (95, 100), (180, 400)])
@pytest.mark.parametrize("tail", [0.05, 0.025, 1e-5])
def test_with_one_imaginary_failure_it_is_the_limit_of_clopper_and_pearson(right, n, tail):
    limit = quantile(np.array([0.0, 1.0]), np.array([n - right + 1.0, right]), tail)
    exact = stats.binomtest(right, n).proportion_ci(1 - 2 * tail, "exact")
    assert limit == pytest.approx(exact.low, abs=1e-9)


def test_it_is_the_share_of_random_weights():
    rng = np.random.default_rng(0)
    values = np.append(rng.normal(0.1, 1, 12), -3.0)
    means = rng.dirichlet(np.ones(13), 200_000) @ values
    for x in (-1.0, -0.2, 0.0, 0.4):
        share = float((means <= x).mean())
        assert below(values, np.ones(13), x) == pytest.approx(share, abs=0.004)


def test_of_many_values_it_is_nearly_normal():
    values = np.random.default_rng(0).normal(0, 1, 9000)  # more than one block
    x = values.mean() - 2 * values.std() / len(values) ** 0.5
    assert below(values, np.ones(9000), float(x)) == pytest.approx(stats.norm.cdf(-2), rel=0.02)


def test_outside_the_values_and_at_them_nothing_is_left():
    values, counts = np.array([-1.0, 2.0]), np.array([2.0, 3.0])
    assert [below(values, counts, x) for x in (-1.5, -1.0, 2.0, 3.0)] == [0.0, 0.0, 1.0, 1.0]
    assert quantile(np.array([0.5]), np.array([4.0]), 0.025) == 0.5
