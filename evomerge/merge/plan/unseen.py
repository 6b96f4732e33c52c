"""Warns of what text tasks do not see in a model that reads images or sounds besides."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from evomerge.checkpoint.architecture import locate
from evomerge.checkpoint.checkpoint import Checkpoint
from evomerge.recipe.recipe import Recipe


def unseen_towers(document: Mapping[str, Any] | None, base: Checkpoint) -> list[str]:
    """Return a warning if a recipe merges towers by the numbers of the language model.

    Args:
        document: One of a study's recipes; nothing is said without.
        base: The study's base model.
    """
    towers = [name for name in base.tensors if locate(name).component == "vision"]
    if document is None or not towers:
        return []
    if any("vision" in (block.components or ()) for block in Recipe.from_dict(document).blocks):
        return []
    return [
        f"{len(towers)} of {len(base.tensors)} tensors ({towers[0]}, …) read images or sounds: no "
        "task here sees them, and they are merged by the numbers of the language model; a block "
        "with `components: vision` gives them numbers of their own"
    ]
