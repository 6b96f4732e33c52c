"""Defines a recipe: one fully specified merge, read from a file or from plain data and checked.

A recipe is a mergekit configuration (models or slices, parameters with gradients and filters,
base_model, dtype, out_dtype, tokenizer_source or tokenizer, chat_template). evomerge adds `blocks`
(a method for a range of layers and components), `seed` (of methods that drop at random), `heads`
and `unmatched` (the treatment of heads, and of tensors that differ between models), `config` (the
model whose config the result takes, in place of the base's) and `merges` (recipes by name, whose
results are models of this one).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from evomerge.core.html import block
from evomerge.recipe import nested
from evomerge.recipe.data import RecipeData
from evomerge.recipe.read import read


@dataclass(frozen=True)
class Recipe(RecipeData):
    """One fully specified merge; make it by `from_dict` or `from_yaml`, which check it."""

    merges: Mapping[str, Recipe] = field(default_factory=dict)  # each after those that it needs

    def _repr_html_(self) -> str:
        return block(self.to_yaml())

    @classmethod
    def from_yaml(cls, file: str | Path) -> Recipe:
        """Read a recipe; folders of models, and files of recipes, are relative to the file.

        Raises:
            UserError: The file or something in it is wrong; the message names the key.
        """
        return cls.from_dict(nested.read(Path(file)), where=str(file))

    @classmethod
    def from_dict(cls, document: Any, where: str = "recipe") -> Recipe:
        """Check a recipe written as a mapping.

        Raises:
            UserError: A key is unknown, a value out of its range, a model missing; names the key.
        """
        return read(cls, document, where)
