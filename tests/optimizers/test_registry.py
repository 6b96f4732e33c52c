"""Optimizers by name: what there is, what is refused, and that asking costs no imports."""

import subprocess
import sys

import pytest

import evomerge.optimizers as search
from evomerge.core.errors import UserError
from evomerge.optimizers import CatCma, CmaEs, Optimizer, OptunaSampler, RandomSearch, create, names


def test_every_name_makes_an_optimizer():
    made = {name: type(create(name)) for name in names()}
    assert made == {
        "adam": search.Adam,
        "catcma": CatCma,
        "cmaes": CmaEs,
        "coarse_to_fine": search.CoarseToFine,
        "coordinate_grid": search.CoordinateGrid,
        "de": search.DifferentialEvolution,
        "genetic": search.GeneticAlgorithm,
        "gp": OptunaSampler,
        "greedy_soup": search.GreedySoup,
        "lorahub": search.LoraHub,
        "lottery_pools": search.LotteryPools,
        "map_elites": search.MapElites,
        "nsga2": OptunaSampler,
        "optuna": OptunaSampler,
        "random": RandomSearch,
        "sepcma": CmaEs,
        "simplex_grid": search.SimplexGrid,
        "sobol": OptunaSampler,
        "swarm": search.ParticleSwarm,
        "tpe": OptunaSampler,
    }
    assert all(issubclass(each, Optimizer) for each in made.values())


def test_an_unknown_name_lists_the_known_ones_nearest_first():
    with pytest.raises(
        UserError, match=r"'cmase': did you mean 'cmaes'\? known: adam, catcma, cmaes"
    ):
        create("cmase")


def test_an_unknown_option_lists_the_known_ones():
    with pytest.raises(UserError, match=r"option of optimizer catcma 'sigm': did you mean 'sigma'"):
        create("catcma", sigm=0.1)
    with pytest.raises(UserError, match="option of optimizer tpe 'sampler'"):
        create("tpe", sampler="GPSampler")
    with pytest.raises(UserError, match="unknown option of TPESampler 'restarts'"):
        create("tpe", restarts=1)


def test_options_reach_the_sampler_behind_the_name():
    assert create("tpe", n_ei_candidates=5)._sampler_options["n_ei_candidates"] == 5


def test_everything_exported_exists_and_nothing_else_does():
    assert all(hasattr(search, name) for name in search.__all__)
    assert not hasattr(search, "BayesianMiracle")


def test_importing_the_room_imports_no_library_of_optimizers_and_no_torch():
    heavy = ["cma", "cmaes", "optuna", "torch", "scipy"]
    script = f"import sys, evomerge.optimizers; print([m for m in {heavy} if m in sys.modules])"
    printed = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert printed.stdout.strip() == "[]"
