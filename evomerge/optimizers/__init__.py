"""Optimizers propose points of a search space and learn from the fitness of these.

Importing this package is cheap; the library behind an optimizer is imported when it is made.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from evomerge.optimizers.optimizer import ItemScores, Optimizer
from evomerge.optimizers.registry import (
    create,
    fixed_options,
    name_of,
    names,
    optimizer_class,
    register_optimizer,
)

if TYPE_CHECKING:
    from evomerge.optimizers.evolution.catcma import CatCma
    from evomerge.optimizers.evolution.cmaes import CmaEs
    from evomerge.optimizers.evolution.coarse_to_fine import CoarseToFine
    from evomerge.optimizers.evolution.differential import DifferentialEvolution
    from evomerge.optimizers.evolution.genetic import GeneticAlgorithm
    from evomerge.optimizers.evolution.lorahub import LoraHub
    from evomerge.optimizers.evolution.map_elites import MapElites
    from evomerge.optimizers.evolution.swarm import ParticleSwarm
    from evomerge.optimizers.gradient.adam import Adam
    from evomerge.optimizers.procedures.coordinate_grid import CoordinateGrid
    from evomerge.optimizers.procedures.greedy_soup import GreedySoup
    from evomerge.optimizers.procedures.lottery_pools import LotteryPools
    from evomerge.optimizers.procedures.simplex_grid import SimplexGrid
    from evomerge.optimizers.sampling.optuna import OptunaSampler
    from evomerge.optimizers.sampling.random import RandomSearch

__all__ = [
    "Adam",
    "CatCma",
    "CmaEs",
    "CoarseToFine",
    "CoordinateGrid",
    "DifferentialEvolution",
    "GeneticAlgorithm",
    "GreedySoup",
    "ItemScores",
    "LoraHub",
    "LotteryPools",
    "MapElites",
    "Optimizer",
    "OptunaSampler",
    "ParticleSwarm",
    "RandomSearch",
    "SimplexGrid",
    "create",
    "fixed_options",
    "name_of",
    "names",
    "optimizer_class",
    "register_optimizer",
]


def __getattr__(name: str) -> type[Optimizer]:
    if name in __all__:
        return optimizer_class(name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
