"""OptunaSampler against Optuna driven by hand, and what is ours in it: failures, quiet, names."""

import logging

import numpy as np
import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from evomerge.core.errors import UserError
from evomerge.optimizers import OptunaSampler
from evomerge.recipe.space.dimension import Dimension

SPACE = [
    Dimension("x"),
    Dimension("n", "int", 1, 9, log=True),
    Dimension("c", "categorical", choices=("p", "q")),
]


def fitness_of(point):
    x, n, c = point
    return -((x - 0.3) ** 2) - abs(n - 4) / 9 - 0.2 * (c == "p")


def test_it_asks_what_optuna_asks():
    ours = OptunaSampler(population=4, n_startup_trials=5)
    ours.start(SPACE, seed=8)

    seed = int(np.random.SeedSequence(8).generate_state(1)[0])
    sampler = optuna.samplers.TPESampler(
        n_startup_trials=5, multivariate=True, constant_liar=True, seed=seed
    )
    study = optuna.create_study(sampler=sampler, direction="maximize", study_name="by hand")
    study.enqueue_trial({"x": 0.5, "n": 3, "c": 0})
    distributions = {
        "x": FloatDistribution(0, 1),
        "n": IntDistribution(1, 9, log=True),
        "c": CategoricalDistribution([0, 1]),
    }
    for _ in range(6):
        points = ours.ask()
        trials = [study.ask(distributions) for _ in range(4)]
        expected = [(t.params["x"], t.params["n"], "pq"[t.params["c"]]) for t in trials]
        assert [p[1:] for p in points] == [e[1:] for e in expected]
        assert [p[0] for p in points] == pytest.approx([e[0] for e in expected], abs=1e-6)
        ours.tell(points, [fitness_of(p) for p in points])
        for trial, point in zip(trials, points, strict=True):
            study.tell(trial, fitness_of(point))


def test_a_failure_is_told_the_worst_fitness_seen(studies):
    optimizer = OptunaSampler("RandomSampler", population=2)
    optimizer.start(SPACE, 0)
    for fitness in ([None, None], [0.5, -3.0], [None, 0.25]):
        optimizer.tell(optimizer.ask(), fitness)
    outcomes = [(trial.state.name, trial.value) for trial in studies[0].trials]
    complete = [("COMPLETE", value) for value in (0.5, -3.0, -3.0, 0.25)]
    assert outcomes == [("FAIL", None), ("FAIL", None), *complete]


def test_optuna_s_log_is_silent_meanwhile_and_as_before_afterwards(caplog):
    optuna.logging.enable_propagation()
    optuna.logging.set_verbosity(optuna.logging.INFO)
    try:
        with caplog.at_level(logging.DEBUG):
            optimizer = OptunaSampler()
            optimizer.start(SPACE, 0)
            points = optimizer.ask()
            optimizer.tell(points, [0.0] * len(points))
        assert caplog.records == []
        assert optuna.logging.get_verbosity() == optuna.logging.INFO
    finally:
        optuna.logging.disable_propagation()


def test_samplers_and_their_options_are_checked_by_name():
    with pytest.raises(UserError, match="did you mean 'TPESampler'"):
        OptunaSampler("TPESampelr")
    with pytest.raises(UserError, match="unknown option of NSGAIISampler 'gama'"):
        OptunaSampler("NSGAIISampler", gama=1)
    assert OptunaSampler("NSGAIISampler", mutation_prob=0.1).adapts
    assert not OptunaSampler("RandomSampler").adapts
