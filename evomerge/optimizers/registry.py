"""Makes optimizers by name, from the one table to which a new one is added."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Mapping
from typing import Any

from evomerge.core.errors import UserError, unknown
from evomerge.optimizers.optimizer import Optimizer

# name in a study file -> (module, class, options that the name fixes)
_OPTIMIZERS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "adam": ("gradient.adam", "Adam", {}),
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
    "sobol": (
        "sampling.optuna",
        "OptunaSampler",
        {"sampler": "QMCSampler", "qmc_type": "sobol", "scramble": True},
    ),
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
    _, class_name, fixed = _OPTIMIZERS[name]
    kind = optimizer_class(class_name)
    parameters = inspect.signature(kind).parameters
    passes_on = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    known = [p.name for p in parameters.values() if p.kind is not p.VAR_KEYWORD]
    settable = [option for option in known if option not in fixed]
    for option in options:
        if option in fixed or (option not in known and not passes_on):
            raise UserError(unknown(f"option of optimizer {name}", option, settable))
    return kind(**fixed, **options)


def name_of(optimizer: Optimizer) -> str:
    """Return the name in a study file: the one that fixes most of the optimizer's options.

    >>> name_of(create("tpe", population=8)), name_of(create("optuna"))
    ('tpe', 'optuna')
    """
    fitting = [
        name
        for name, (_, class_name, fixed) in _OPTIMIZERS.items()
        if class_name == type(optimizer).__name__ and fixed.items() <= optimizer.options.items()
    ]
    if not fitting:
        raise UserError(
            f"{type(optimizer).__name__} is no registered optimizer: add it to the table in "
            "evomerge/optimizers/registry.py"
        )
    return max(fitting, key=lambda name: len(fixed_options(name)))


def fixed_options(name: str) -> Mapping[str, Any]:
    """Return the options that a name implies, which cannot be set as well.

    >>> fixed_options("sepcma"), fixed_options("cmaes")
    ({'diagonal': True}, {})
    """
    return _OPTIMIZERS[name][2]


def optimizer_class(class_name: str) -> type[Optimizer]:
    """Import the class of that name, and only the library that it needs."""
    module = next(m for m, c, _ in _OPTIMIZERS.values() if c == class_name)
    kind = getattr(importlib.import_module(f"evomerge.optimizers.{module}"), class_name)
    assert isinstance(kind, type)
    assert issubclass(kind, Optimizer)
    return kind
