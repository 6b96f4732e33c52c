"""Writes the model card of a merged model: parents, method, results, licence and references."""

from __future__ import annotations

import html
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from evomerge import methods
from evomerge.checkpoint import names as model_name
from evomerge.merge.output.licence import licence_of
from evomerge.recipe.recipe import Recipe

_CARD = """---
{metadata}---
# {title}

A merge of {count} models by `{methods}`, made by evomerge.
{results}
## Parents

{parents}
{licence}
## Recipe

{fence}yaml
{recipe}{fence}

## Methods

{references}
"""


def model_card(
    recipe: Recipe,
    title: str = "Merged model",
    results: str = "",
    metadata: Mapping[str, Any] | None = None,
) -> str:
    """Write the card as Markdown; folders are named by their last part, hub ids whole.

    Args:
        recipe: What the model is.
        title: The card's heading.
        results: Markdown, without links, that goes behind the first sentence.
        metadata: More for the card's head, such as ``model-index``.
    """
    from huggingface_hub import ModelCardData

    named = {model: model_name.public(model) for model in recipe.model_names}
    licences = {model: licence_of(model) for model in named}
    known = set(licences.values())
    inner = [name for merge in recipe.merges.values() for name in merge.method_names]
    used = list(dict.fromkeys([*recipe.method_names, *inner]))
    head: dict[str, Any] = {"library_name": "transformers", "tags": ["merge", "evomerge"]}
    origins = [one for model in named for one in model_name.hub_repositories(model)]
    if origins:  # a local folder is nothing that the hub could link to
        head |= {"base_model": list(dict.fromkeys(origins)), "base_model_relation": "merge"}
    if len(known) == 1 and None not in known:
        head["license"] = known.pop()
    text = public_recipe(recipe)
    ticks = max((len(run) for run in re.findall("`+", text)), default=0)
    return _CARD.format(
        metadata=ModelCardData(**head | dict(metadata or {})).to_yaml(line_break="\n") + "\n",
        title=_plain(title),
        count=len(named),
        methods="`, `".join(used),
        results=f"\n{_plain(results)}" if results else "",
        parents="\n".join(
            f"- {_plain(name)}{' (base)' if model == recipe.base_model else ''}"
            f"{f' ({_plain(licence)})' if (licence := licences[model]) else ''}"
            for model, name in named.items()
        ),
        licence=_licence_note(licences),
        fence="`" * max(3, ticks + 1),
        recipe=text,
        references="\n".join(f"- `{name}`: {methods.get(name).reference}" for name in used),
    )


def public_recipe(recipe: Recipe) -> str:
    """Return the recipe as YAML, without the local folders of its models and their rows."""
    text = recipe.to_yaml()
    every = [recipe, *recipe.merges.values()]
    files = {e.data.file for one in every for e in one.models if e.data is not None}
    for file in sorted(files, key=len, reverse=True):
        text = text.replace(file, Path(file).name)
    for model in sorted(recipe.model_names, key=len, reverse=True):
        text = text.replace(model, model_name.public(model))
    return text


def _licence_note(licences: Mapping[str, str | None]) -> str:
    """Return a note on the parents' licences, for whoever publishes the merge."""
    unknown = [model_name.public(model) for model, licence in licences.items() if licence is None]
    if unknown:
        names = _plain(", ".join(unknown))
        return f"\nNo licence is stated by {names}; a merge is bound by its parents'.\n"
    if len(set(licences.values())) > 1:
        return "\nThe parents' licences differ; a merge is bound by all of them.\n"
    return ""


def _plain(text: str) -> str:
    """A text in which names of others are neither HTML nor links."""
    return html.escape(text, quote=False).replace("[", r"\[")
