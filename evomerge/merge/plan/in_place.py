"""Checks that a recipe can be merged into a live model, whose tokens must stay as they are."""

from __future__ import annotations

from collections.abc import Mapping

from evomerge.checkpoint.checkpoint import Checkpoint
from evomerge.core.errors import UserError
from evomerge.merge.vocabulary.align import aligned
from evomerge.merge.vocabulary.chat import chat_template, template_of
from evomerge.recipe.recipe import Recipe


def check_in_place(
    recipe: Recipe, checkpoints: Mapping[str, Checkpoint], *, chat: bool = False
) -> None:
    """Refuse a recipe that changes the vocabulary of a resident model.

    Args:
        recipe: The recipe.
        checkpoints: Every model that it names, opened.
        chat: Whether prompts go through the donor's chat template, so that this must stay too.

    Raises:
        UserError: Its tokenizer is not the parents', or has fewer tokens than the model has rows.
    """
    template = chat_template(recipe, checkpoints) if chat else None
    if template is not None and template != template_of(checkpoints[recipe.donor].folder):
        raise UserError(
            "chat_template: during the study prompts use the base's own template, so scores would "
            "not be those of the result's template; leave chat_template out, or set "
            "apply_chat_template: false"
        )
    new = aligned(recipe, checkpoints)
    if any(new[name] is not checkpoint for name, checkpoint in checkpoints.items()):
        raise UserError(
            f"tokenizer (source {recipe.vocabulary.source if recipe.vocabulary else None}): it "
            "changes the parents' vocabulary, and a study merges into a live model whose "
            "vocabulary stays; build every parent with one tokenizer first, and search over those"
        )
