"""Says what merging asks of whoever makes statistics of a model's own rows.

Merging never runs a model: `calibration` does, and hands a provider down.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from torch import Tensor

from evomerge.methods.of_data import Direction, Gram, Squares
from evomerge.recipe.recipe import Recipe
from evomerge.recipe.rows import Calibration, Data

Statistic = Callable[[str], Gram | Squares | Direction | None]  # by the tensor's name in the model


class Provider(Protocol):
    """Gives a statistic of a model: from a cache, or made now."""

    def __call__(self, model: str, kind: str, data: Data, calibration: Calibration) -> Statistic:
        """Return what the rows say of each tensor.

        Args:
            model: As the recipe names it: a folder, a hub id, an adapter on one.
            kind: ``gram``, ``fisher`` or ``inputs``.
            data: The model's rows.
            calibration: How they are read.

        Raises:
            UserError: The rows cannot be read, or the model does not run on them.
        """

    def masks(self, recipe: Recipe) -> Callable[[str, str], Tensor | None]:
        """Return what each element of a change is multiplied by, by its model and tensor.

        Args:
            recipe: A recipe whose method takes `mask`; the rows of all its models count.

        Raises:
            UserError: As for a statistic.
        """

    def gates(self, recipe: Recipe, parents: Any) -> Callable[[str], Tensor]:
        """Return the trained gates of routed layers, float32, by the tensor's name in the result.

        Args:
            recipe: A recipe whose method takes `gates`.
            parents: Its `Parents`, merges within it among them.

        Raises:
            UserError: A model has no rows, they cannot be read, or the model does not run on them.
        """
