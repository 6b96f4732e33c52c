"""Matches the tensors of several models, and decides what becomes of those that do not match.

Heads (of classifiers above all) may be merged, taken from the base or dropped; what else is not in
every model, or not of one shape, is an error unless the recipe says what to do.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from evomerge.checkpoint.architecture import is_head
from evomerge.checkpoint.checkpoint import Checkpoint
from evomerge.core.errors import UserError
from evomerge.recipe.recipe import Recipe

# What a config says of a head that is gone.
_OF_HEADS = ("architectures", "id2label", "label2id", "num_labels", "problem_type")


def sources_of_tensors(
    recipe: Recipe, names: list[str], checkpoints: Mapping[str, Checkpoint]
) -> dict[str, str | None]:
    """Map every tensor of the result to ``None`` if it is merged, or to the model it comes from.

    Args:
        recipe: A recipe without slices.
        names: The tensors of its donor.
        checkpoints: Every model that it names, opened.

    Raises:
        UserError: Tensors differ and the recipe does not say what to do; names the first of them.
    """
    donor = checkpoints[recipe.donor]
    inputs = {model: checkpoints[model] for model in recipe.inputs}
    result: dict[str, str | None] = {}
    for name in names:
        if recipe.heads != "merge" and is_head(name):
            if recipe.heads == "base":
                result[name] = recipe.donor
        elif _matches(name, donor, inputs):
            result[name] = None
        elif recipe.unmatched in ("base", "union"):
            result[name] = recipe.donor
    if recipe.unmatched == "union":
        for model, checkpoint in inputs.items():
            for name in checkpoint.tensors:
                foreign = donor.stored_name(name) is None
                if foreign and not (is_head(name) and recipe.heads != "merge"):
                    result.setdefault(name, model)
    return result


def check_labels(recipe: Recipe, checkpoints: Mapping[str, Checkpoint]) -> None:
    """Refuse to average classifiers whose rows are of other classes.

    Raises:
        UserError: Names a tensor, and the remedies.
    """
    donor = checkpoints[recipe.donor]
    head = next((name for name in donor.tensors if is_head(name, of_classes=True)), None)
    if head is None or recipe.heads != "merge":
        return
    for model in recipe.inputs:
        other = checkpoints[model]
        if head in other.tensors and _labels(other) != _labels(donor):
            raise UserError(
                f"{head}: its rows stand for different classes in {other.folder} than in "
                f"{donor.folder} "
                f"({_shown_labels(other)}; {_shown_labels(donor)}); set `heads: base` "
                "or `heads: drop`"
            )


def with_heads(recipe: Recipe, config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the result's config, which says nothing of heads that were dropped."""
    gone = _OF_HEADS if recipe.heads == "drop" else ()
    return {key: value for key, value in config.items() if key not in gone}


def _matches(name: str, donor: Checkpoint, inputs: Mapping[str, Checkpoint]) -> bool:
    shape = donor.tensors[donor.stored_name(name) or name].shape
    for checkpoint in inputs.values():
        info = checkpoint.tensors.get(checkpoint.stored_name(name) or "")
        if info is None or info.shape != shape:
            return False
    return True


def _labels(checkpoint: Checkpoint) -> dict[str, str]:
    """Return names of classes by number, as text; what transformers leaves out are its defaults."""
    names = checkpoint.config.get("id2label")
    if not isinstance(names, dict):
        return {"0": "LABEL_0", "1": "LABEL_1"}
    return {str(number): str(label) for number, label in names.items()}


def _shown_labels(checkpoint: Checkpoint) -> str:
    labels = list(_labels(checkpoint).values())
    return ", ".join(labels[:4]) + (" …" if len(labels) > 4 else "")
