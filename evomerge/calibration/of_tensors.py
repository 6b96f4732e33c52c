"""Gives what is kept of a model's rows tensor by tensor, as methods take it."""

from __future__ import annotations

import torch

from evomerge.calibration.gram import Shared
from evomerge.calibration.store import Stored
from evomerge.checkpoint.architecture import locate
from evomerge.checkpoint.checkpoint import Checkpoint
from evomerge.core.errors import UserError
from evomerge.methods.of_data import Direction, Gram, Squares


class SquaresOf:
    """Squared gradients of each tensor, zeros where nothing depends on it."""

    def __init__(self, stored: Stored, checkpoint: Checkpoint) -> None:
        self._stored, self._checkpoint = stored, checkpoint

    def __call__(self, name: str) -> Squares:
        """Return those of a tensor, by its name in the model."""
        about = self._stored.about
        if name in self._stored:
            values = self._stored.tensor(name)
        else:  # a tensor that transformers leaves out of the model: nothing depends on it
            values = torch.zeros(self._checkpoint.tensors[name].shape)
        return Squares(values, about["norm"], about["mean"])


class GramsOf:
    """Gram matrices of what each tensor multiplies; ``None`` where it multiplies nothing."""

    def __init__(self, stored: Stored, checkpoint: Checkpoint) -> None:
        self._stored, self._checkpoint = stored, checkpoint
        self._leaders = {name: Shared(*one) for name, one in stored.about["leaders"].items()}

    def __call__(self, name: str) -> Gram | None:
        """Return that of a tensor, by its name in the model."""
        shared = self._leaders.get(name)
        if shared is not None:
            return Gram(self._stored.tensor(shared.leader), shared.transposed)
        shape = self._checkpoint.tensors[name].shape
        if locate(name).component != "experts" or len(shape) < 2:
            return None
        if len(shape) > 2:
            raise UserError(
                f"{name}: this tensor holds several experts, which have no Gram matrix in common: "
                "give experts another method (blocks: [{components: [experts], merge_method: …}])"
            )
        return Gram(torch.zeros(shape[1], shape[1]))  # no token of the rows came to this expert


class DirectionsOf:
    """Mean directions of what each tensor multiplies."""

    def __init__(self, stored: Stored, checkpoint: Checkpoint) -> None:
        self._stored, self._folder = stored, checkpoint.folder
        self._leaders = {name: Shared(*one) for name, one in stored.about["leaders"].items()}

    def __call__(self, name: str) -> Direction:
        """Return that of a tensor, by its name in the model."""
        if name not in self._leaders:
            raise UserError(f"{self._folder}: {name} multiplies no inputs when its rows are read")
        return Direction(self._stored.tensor(self._leaders[name].leader))
