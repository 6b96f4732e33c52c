"""Optimizers by name: the one table to add a new one to."""

from __future__ import annotations

import importlib
import inspect
from typing import Any

from evomerge.core.errors import UserError, unknown
from evomerge.optimizers.optimizer import Optimizer

# name in a study file -> (module, class, options that the name stands for)
_OPTIMIZERS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "catcma": ("evolution.catcma", "CatCma", {}),
    "cmaes": ("evolution.cmaes", "CmaEs", {}),
    "coarse_to_fine": ("evolution.coarse_to_fine", "CoarseToFine", {}),
    "coordinate_grid": ("procedures.coordinate_grid", "CoordinateGrid", {}),
    "de": ("evolution.differential", "DifferentialEvolution", {}),
    "genetic": ("evolution.genetic", "GeneticAlgorithm", {}),
    "gp": ("sampling.optuna", "OptunaSampler", {"sampler": "GPSampler"}),
    "greedy_soup": ("procedures.greedy_soup", "GreedySoup", {}),
    "lorahub": ("evolution.lorahub", "LoraHub", {}),
    "lottery_pools": ("procedures.lottery_pools", "LotteryPools", {}),
    "map_elites": ("evolution.map_elites", "MapElites", {}),
    "nsga2": ("sampling.optuna", "OptunaSampler", {"sampler": "NSGAIISampler"}),
    "optuna": ("sampling.optuna", "OptunaSampler", {}),
    "random": ("sampling.random", "RandomSearch", {}),
    "sepcma": ("evolution.cmaes", "CmaEs", {"diagonal": True}),
    "simplex_grid": ("procedures.simplex_grid", "SimplexGrid", {}),
    "sobol": ("sampling.sobol", "SobolSearch", {}),
    "swarm": ("evolution.swarm", "ParticleSwarm", {}),
    "tpe": ("sampling.optuna", "OptunaSampler", {"sampler": "TPESampler"}),
}


def names() -> list[str]:
    """List the names that `create` knows."""
    return sorted(_OPTIMIZERS)


def create(name: str, **options: Any) -> Optimizer:
    """Make the optimizer called `name`.

    >>> create("cmaes", sigma=0.1).population
    Traceback (most recent call last):
    ...
    RuntimeError: population was used before start(): call start(dimensions, seed)

    Args:
        name: One of `names()`.
        options: Options of that optimizer, such as `sigma` or `population`.
    """
    if name not in _OPTIMIZERS:
        raise UserError(unknown("optimizer", name, names()))
    _, class_name, preset = _OPTIMIZERS[name]
    made = optimizer_class(class_name)
    parameters = inspect.signature(made).parameters
    open_ended = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values())
    known = [p for p in parameters if p not in preset and p != "sampler_options"]
    for option in options:
        if option in preset or (option not in known and not open_ended):
            raise UserError(unknown(f"option of optimizer {name}", option, known))
    return made(**preset, **options)


def name_of(optimizer: Optimizer) -> str:
    """The name by which a study file would ask for this kind of optimizer."""
    for name, (_, class_name, preset) in _OPTIMIZERS.items():
        if class_name == type(optimizer).__name__ and not preset:
            return name
    raise UserError(
        f"{type(optimizer).__name__} is no registered optimizer: add it to the table in "
        "evomerge/optimizers/registry.py"
    )


def optimizer_class(class_name: str) -> type[Optimizer]:
    """Import the class of that name, and only the library that it needs."""
    module = next(m for m, c, _ in _OPTIMIZERS.values() if c == class_name)
    found = getattr(importlib.import_module(f"evomerge.optimizers.{module}"), class_name)
    assert isinstance(found, type)
    assert issubclass(found, Optimizer)
    return found
