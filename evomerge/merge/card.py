"""The model card of a merged model: what it is made of, how, and what to cite."""

from __future__ import annotations

from evomerge import methods, model_name
from evomerge.recipe import Recipe

_CARD = """---
library_name: transformers
tags: [merge, evomerge]
---
# {title}

A merge of {count} models by `{methods}`, made by evomerge.

## Parents

{parents}

## Recipe

```yaml
{recipe}```

## Methods

{references}
"""


def model_card(recipe: Recipe, title: str = "Merged model") -> str:
    """Write the card as Markdown; folders are named by their last part, hub ids whole."""
    named = {model: model_name.public(model) for model in recipe.model_names}
    text = recipe.to_yaml()
    for model in sorted(named, key=len, reverse=True):
        text = text.replace(model, named[model])
    return _CARD.format(
        title=title,
        count=len(named),
        methods="`, `".join(recipe.method_names),
        parents="\n".join(
            f"- {name}{' (base)' if model == recipe.base_model else ''}"
            for model, name in named.items()
        ),
        recipe=text,
        references="\n".join(
            f"- `{name}`: {methods.get(name).reference}" for name in recipe.method_names
        ),
    )
