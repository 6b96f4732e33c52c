"""Optimizers: they propose points of a search space and learn from how good these were.

Importing this package is cheap; the library behind an optimizer is imported when it is made.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from evomerge.search.optimizer import ItemScores, Optimizer
from evomerge.search.registry import create, name_of, names, optimizer_class

if TYPE_CHECKING:
    from evomerge.search.catcma import CatCma
    from evomerge.search.cma import CmaEs
    from evomerge.search.coarse_to_fine import CoarseToFine
    from evomerge.search.coordinate_grid import CoordinateGrid
    from evomerge.search.differential import DifferentialEvolution
    from evomerge.search.genetic import GeneticAlgorithm
    from evomerge.search.greedy_soup import GreedySoup
    from evomerge.search.lorahub import LoraHub
    from evomerge.search.lottery_pools import LotteryPools
    from evomerge.search.map_elites import MapElites
    from evomerge.search.optuna import OptunaSampler
    from evomerge.search.random import RandomSearch
    from evomerge.search.simplex_grid import SimplexGrid
    from evomerge.search.sobol import SobolSearch
    from evomerge.search.swarm import ParticleSwarm

__all__ = [
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
    "SobolSearch",
    "create",
    "name_of",
    "names",
]


def __getattr__(name: str) -> type[Optimizer]:
    if name in __all__:
        return optimizer_class(name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
