"""evomerge: evolutionary search for model-merge recipes."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from evomerge.core.version import __version__

if TYPE_CHECKING:
    from evomerge.calibration.make import build
    from evomerge.core.errors import StudyEnded, UserError
    from evomerge.methods import merge_method, register_method
    from evomerge.optimizers import (
        Adam,
        CatCma,
        CmaEs,
        Optimizer,
        OptunaSampler,
        RandomSearch,
        register_optimizer,
    )
    from evomerge.recipe.recipe import Recipe
    from evomerge.recipe.space.space import SearchSpace
    from evomerge.report import plot
    from evomerge.study.config import (
        EvaluateConfig,
        ItemsConfig,
        OutputConfig,
        SearchConfig,
        StudyConfig,
        ThenConfig,
        WorkersConfig,
    )
    from evomerge.study.create import LMEval, create_study, load_study
    from evomerge.study.mirror.mirror import Mirror
    from evomerge.study.study import Study
    from evomerge.study.trial import Trial

# The module of each public name; imported when first used, so that `import evomerge` is cheap.
_HOMES = {
    "Adam": "optimizers",
    "CatCma": "optimizers",
    "CmaEs": "optimizers",
    "EvaluateConfig": "study.config",
    "ItemsConfig": "study.config",
    "LMEval": "study.create",
    "Mirror": "study.mirror.mirror",
    "Optimizer": "optimizers",
    "OptunaSampler": "optimizers",
    "OutputConfig": "study.config",
    "RandomSearch": "optimizers",
    "Recipe": "recipe.recipe",
    "SearchConfig": "study.config",
    "SearchSpace": "recipe.space.space",
    "Study": "study.study",
    "StudyConfig": "study.config",
    "StudyEnded": "core.errors",
    "ThenConfig": "study.config",
    "Trial": "study.trial",
    "UserError": "core.errors",
    "WorkersConfig": "study.config",
    "build": "calibration.make",
    "create_study": "study.create",
    "load_study": "study.create",
    "merge_method": "methods",
    "register_method": "methods",
    "register_optimizer": "optimizers",
}
_MODULES = {"plot": "report.plot"}  # public names that are modules

__all__ = [
    "Adam",
    "CatCma",
    "CmaEs",
    "EvaluateConfig",
    "ItemsConfig",
    "LMEval",
    "Mirror",
    "Optimizer",
    "OptunaSampler",
    "OutputConfig",
    "RandomSearch",
    "Recipe",
    "SearchConfig",
    "SearchSpace",
    "Study",
    "StudyConfig",
    "StudyEnded",
    "ThenConfig",
    "Trial",
    "UserError",
    "WorkersConfig",
    "__version__",
    "build",
    "create_study",
    "load_study",
    "merge_method",
    "plot",
    "register_method",
    "register_optimizer",
]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return import_module(f"evomerge.{_MODULES[name]}")
    if name in _HOMES:
        return getattr(import_module(f"evomerge.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'evomerge' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
