"""Recalls tensors that candidates have in common, such as RegMean's products."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from functools import partial

from torch import Tensor

from evomerge.methods.of_data import Recall
from evomerge.recipe.recipe import Recipe

ANCHORS = 2  # recipes of one method that every study scores once: nothing is kept for them


class Memo:
    """Keeps tensors within a budget of bytes; what came first stays, the rest is made anew.

    Candidates ask for all their tensors in turn, so that dropping the oldest would drop each just
    before it is asked for. A tensor is kept when the same version is asked for again.

    Args:
        budget: Bytes.
    """

    def __init__(self, budget: int) -> None:
        self.budget = budget
        self.size = 0
        self._recipes: set[str] = set()
        self._versions: dict[Hashable, Hashable] = {}  # the last one asked for
        self._tensors: dict[Hashable, Tensor] = {}

    def of(self, recipe: Recipe, inputs: Hashable) -> Recall:
        """Return what recalls the tensors that follow from these inputs.

        Args:
            recipe: Which asks: nothing is kept before there were more than `ANCHORS`.
            inputs: Name all that the tensors depend on, but for their version.
        """
        if len(self._recipes) <= ANCHORS:
            self._recipes.add(recipe.digest)
        return partial(self._recall, inputs)

    def _recall(
        self, inputs: Hashable, name: str, version: Hashable, make: Callable[[], Tensor]
    ) -> Tensor:
        key = (inputs, name)
        again = self._versions.get(key) == version
        if not again:
            self._versions[key] = version
            self.size -= self._tensors.pop(key).nbytes if key in self._tensors else 0
        if key in self._tensors:
            return self._tensors[key]
        tensor = make()
        if again and len(self._recipes) > ANCHORS and self.size + tensor.nbytes <= self.budget:
            self._tensors[key] = tensor
            self.size += tensor.nbytes
        return tensor
