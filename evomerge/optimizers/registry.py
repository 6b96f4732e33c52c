"""Makes optimizers by name, from the one table to which a new one is added."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Mapping
from typing import Any

from evomerge.core.errors import UserError, unknown
from evomerge.core.plugins import installed
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

ENTRY_POINTS = "evomerge.optimizers"  # of installed packages: name = "module:Class"
_REGISTERED: dict[str, tuple[type[Optimizer], dict[str, Any]]] = {}


def register_optimizer(name: str, kind: type[Optimizer], **fixed: Any) -> None:
    """Make an optimizer known by a name in study files.

    Args:
        name: What a study file calls it.
        kind: A subclass of `Optimizer`.
        fixed: Options that the name fixes.

    Raises:
        UserError: The name is one that comes with evomerge, or `kind` is no optimizer.
    """
    if name in _OPTIMIZERS:
        raise UserError(f"optimizer '{name}' comes with evomerge; choose another name")
    if not (inspect.isclass(kind) and issubclass(kind, Optimizer)):
        raise UserError(f"optimizer '{name}': expected a subclass of Optimizer, but got {kind!r}")
    _REGISTERED[name] = (kind, fixed)


def _others() -> dict[str, tuple[type[Optimizer], dict[str, Any]]]:
    """Those of installed packages, and those that were registered."""
    return {name: (kind, {}) for name, kind in installed(ENTRY_POINTS).items()} | _REGISTERED


def names() -> list[str]:
    """List the names that `create` knows."""
    return sorted({*_OPTIMIZERS, *_others()})


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
    if name in _OPTIMIZERS:
        _, class_name, fixed = _OPTIMIZERS[name]
        kind = optimizer_class(class_name)
    elif name in (others := _others()):
        kind, fixed = others[name]
    else:
        raise UserError(unknown("optimizer", name, names()))
    parameters = dict(inspect.signature(kind.__init__).parameters)  # `__new__` takes anything
    del parameters["self"]
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
    fitting += [
        name
        for name, (kind, fixed) in _others().items()
        if kind is type(optimizer) and fixed.items() <= optimizer.options.items()
    ]
    if not fitting:
        raise UserError(
            f"{type(optimizer).__name__} is no registered optimizer: call "
            "evomerge.register_optimizer(name, its class)"
        )
    return max(fitting, key=lambda name: len(fixed_options(name)))


def fixed_options(name: str) -> Mapping[str, Any]:
    """Return the options that a name implies, which cannot be set as well.

    >>> fixed_options("sepcma"), fixed_options("cmaes")
    ({'diagonal': True}, {})
    """
    return _OPTIMIZERS[name][2] if name in _OPTIMIZERS else _others()[name][1]


def optimizer_class(class_name: str) -> type[Optimizer]:
    """Import the class of that name, and only the library that it needs."""
    module = next(m for m, c, _ in _OPTIMIZERS.values() if c == class_name)
    kind = getattr(importlib.import_module(f"evomerge.optimizers.{module}"), class_name)
    assert isinstance(kind, type)
    assert issubclass(kind, Optimizer)
    return kind
