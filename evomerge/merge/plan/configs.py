"""Says which config and dtype a merge gets where its parents differ in them."""

from __future__ import annotations

from collections.abc import Mapping

from evomerge.checkpoint.checkpoint import Checkpoint
from evomerge.checkpoint.dtypes import CODES, FLOATS, NAMES
from evomerge.checkpoint.loaded.config import differences
from evomerge.recipe.recipe import Recipe

_SHOWN = 6  # keys of one model


def config_notes(recipe: Recipe, checkpoints: Mapping[str, Checkpoint]) -> list[str]:
    """One sentence for each parent that computes in another way than the merge will.

    Args:
        recipe: The recipe.
        checkpoints: Every model that it names, opened.
    """
    donor = recipe.config_donor
    notes = []
    for model in recipe.inputs:
        ours, theirs = checkpoints[donor].config, checkpoints[model].config
        lines = differences(ours, theirs, stacked=bool(recipe.slices))
        if lines:
            more = f" and {len(lines) - _SHOWN} more" if len(lines) > _SHOWN else ""
            notes.append(
                f"the config of {model} computes in another way than that of {donor}, which the "
                f"merge gets: {', '.join(lines[:_SHOWN])}{more}; `config: MODEL` in the recipe "
                "chooses another"
            )
    return notes


def stored_dtype(recipe: Recipe, checkpoints: Mapping[str, Checkpoint]) -> str:
    """The dtype that a recipe's models are loaded in; float32 where they differ, as mergekit."""
    dtypes = {_dtype(checkpoints[model]) for model in recipe.inputs}
    if len(dtypes) == 1:
        return dtypes.pop()
    return "float64" if "float64" in dtypes else "float32"


def _dtype(checkpoint: Checkpoint) -> str:
    """Return the dtype that transformers loads a model in: its config's, else most tensors'."""
    for key in ("dtype", "torch_dtype"):
        said = str(checkpoint.config.get(key)).removeprefix("torch.")
        if CODES.get(said) in FLOATS:
            return said
    elements: dict[str, int] = {}
    for info in checkpoint.tensors.values():
        if info.dtype in FLOATS:
            elements[info.dtype] = elements.get(info.dtype, 0) + info.numel
    return NAMES[max(elements, key=elements.__getitem__)] if elements else "float32"
