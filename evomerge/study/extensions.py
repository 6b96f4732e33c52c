"""Loads the methods and optimizers that a study takes from files, in the driver and in workers."""

from __future__ import annotations

import inspect
from collections.abc import Iterable

from evomerge import methods
from evomerge.core.errors import UserError
from evomerge.core.plugins import from_file
from evomerge.optimizers import registry
from evomerge.optimizers.optimizer import Optimizer
from evomerge.study.config import StudyConfig


def load_extensions(config: StudyConfig) -> None:
    """Register a study's own methods and optimizers; the study has allowed their code.

    Raises:
        UserError: A file cannot be imported, or what it names is no method or optimizer.
    """
    load_methods(config.methods or ())
    for entry in config.optimizers or ():
        kind = from_file(entry, "optimizers")
        if not (inspect.isclass(kind) and issubclass(kind, Optimizer)):
            raise UserError(
                f"optimizers: {entry}: expected a subclass of evomerge.optimizers.Optimizer"
            )
        registry.register_optimizer(kind.__name__, kind)


def load_methods(entries: Iterable[str]) -> None:
    """Register methods from files, ``FILE.py:NAME`` each; this runs the files.

    Raises:
        UserError: A file cannot be imported, or what it names is no merge method.
    """
    for entry in entries:
        function = from_file(entry, "methods")
        name = entry.rpartition(":")[2].rstrip("_")
        spec = methods.registry.METHODS.get(name)
        if spec is None or spec.function is not function:
            raise UserError(
                f"methods: {entry}: expected a merge method: put "
                '@evomerge.merge_method(reference="Author year, https://...") above it'
            )
