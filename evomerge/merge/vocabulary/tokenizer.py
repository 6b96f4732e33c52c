"""Makes the tokenizer of a merged model: one parent's or the union of all, and added tokens.

The union is the base's vocabulary followed by the other models' tokens that it lacks, model by
model and by their ids: first those of their vocabularies, then those that were added to them.
Where mergekit 0.1.5 orders these as its hash seed has it, the order is fixed here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evomerge.checkpoint import names as model_name
from evomerge.checkpoint.architecture import vocabulary_size
from evomerge.checkpoint.checkpoint import Checkpoint
from evomerge.checkpoint.files.companions import (
    GENERATION,
    PROCESSORS,
    TOKENIZER,
    copy_companions,
    copy_licences,
)
from evomerge.checkpoint.files.document import read_json
from evomerge.checkpoint.vocabulary import read_tokenizer, write_added
from evomerge.core.errors import UserError
from evomerge.merge.vocabulary.chat import chat_template, write_chat_template
from evomerge.recipe.recipe import Recipe

_PLAIN = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": True}
_STALE = ("added_tokens.json",)  # of slow tokenizers; tokenizer.json has it all


@dataclass(frozen=True)
class MergedTokenizer:
    """The tokenizer of the result.

    Attributes:
        donor: The model whose tokenizer files it is made of.
        added: Entries of tokenizer.json's added_tokens that are put to the donor's, in order.
        tokens: Every token with its id.
    """

    donor: Checkpoint
    added: tuple[Mapping[str, Any], ...]
    tokens: Mapping[str, int]

    def write(self, folder: Path) -> None:
        """Write the tokenizer's files into a model folder."""
        copy_companions(self.donor.folder, folder, TOKENIZER)
        if not self.added:
            return
        for stale in _STALE:
            (folder / stale).unlink(missing_ok=True)
        replaced = {entry["id"] for entry in self.added}
        unchanged = [e for e in _added_tokens(self.donor) if e["id"] not in replaced]
        added = sorted([*unchanged, *self.added], key=lambda entry: int(entry["id"]))
        write_added(self.donor.folder, folder, added)
        settings = folder / "tokenizer_config.json"
        if settings.is_file():
            document = read_json(settings)
            if isinstance(document.get("added_tokens_decoder"), dict):  # as transformers 4 wrote it
                for entry in self.added:
                    fields = {key: value for key, value in entry.items() if key != "id"}
                    document["added_tokens_decoder"][str(entry["id"])] = fields
                settings.write_text(json.dumps(document, ensure_ascii=False, indent=2) + "\n")


def write_companions(recipe: Recipe, checkpoints: Mapping[str, Checkpoint], folder: Path) -> None:
    """Write what belongs to a recipe's result beside weights and config, as loaders read it.

    Tokenizer, chat template and generation settings, processors of images and sound, licences.

    Raises:
        UserError: The recipe gives a chat template to models that have no tokenizer files.
    """
    tokenizer = merged_tokenizer(recipe, checkpoints)
    if tokenizer is None:
        tokenizer = MergedTokenizer(checkpoints[recipe.donor], (), {})
    tokenizer.write(folder)
    config_folder = checkpoints[recipe.config_donor].folder
    # Its ends are ids of tokens, so that it follows the tokenizer where that is another.
    generation = config_folder if recipe.vocabulary is None else tokenizer.donor.folder
    copy_companions(generation, folder, (GENERATION,))
    copy_companions(config_folder, folder, PROCESSORS)
    for model in dict.fromkeys([recipe.donor, *recipe.inputs]):
        copy_licences(checkpoints[model].folder, folder, Path(model_name.public(model)).name)
    template = chat_template(recipe, checkpoints)
    if template is not None:
        if not tokenizer.donor.tokenizer_files():
            raise UserError(
                f"{tokenizer.donor.folder}: expected tokenizer files to add the "
                "chat_template to, but it has none"
            )
        write_chat_template(template, folder)


def merged_tokenizer(
    recipe: Recipe, checkpoints: Mapping[str, Checkpoint]
) -> MergedTokenizer | None:
    """Return the tokenizer that a recipe asks for, or ``None`` if it has no `tokenizer_source`.

    Raises:
        UserError: A parent has no tokenizer.json, or tokens without a row.
    """
    rule = recipe.vocabulary
    if rule is None:
        return None
    named = rule.source if rule.source not in ("base", "union") else recipe.donor
    donor = checkpoints[named]
    tokens = vocabulary_of(donor)
    added: list[Mapping[str, Any]] = []

    def add(token: str, settings: Mapping[str, Any]) -> None:
        number = tokens.setdefault(token, max(tokens.values(), default=-1) + 1)
        added.append({**settings, "id": number, "content": token})

    if rule.source == "union":
        others = [checkpoints[name] for name in recipe.inputs if name != recipe.donor]
        vocabularies = [vocabulary_of(other) for other in others]
        known = {entry["content"] for entry in _added_tokens(donor)}
        foreign = {e["content"]: e for other in others for e in reversed(_added_tokens(other))}
        for vocabulary in vocabularies:
            for token in sorted(vocabulary, key=vocabulary.__getitem__):
                if token not in tokens and token not in foreign:
                    add(token, {**_PLAIN, "special": False})
        for other in others:
            for entry in _added_tokens(other):
                if entry["content"] not in known:
                    known.add(entry["content"])
                    add(entry["content"], entry)
    for token in rule.tokens:
        if token not in tokens:
            add(token, {**_PLAIN, "special": False})
    return MergedTokenizer(donor, tuple(added), tokens)


def vocabulary_of(checkpoint: Checkpoint) -> dict[str, int]:
    """Return a new mapping of a model's tokens to their ids; all have a row of its embeddings.

    Raises:
        UserError: There is no tokenizer.json, or an id lies beyond the embeddings.
    """
    vocabulary = checkpoint.vocabulary
    if vocabulary is None or not (checkpoint.folder / "tokenizer.json").is_file():
        raise UserError(
            f"{checkpoint.folder}: expected a tokenizer.json, from which tokenizers are merged, "
            "but it has none"
        )
    rows = vocabulary_size(checkpoint.config)
    beyond = (
        [] if rows is None else [token for token, number in vocabulary.items() if number >= rows]
    )
    if beyond:
        raise UserError(
            f"{checkpoint.folder}: {len(beyond)} tokens have no row in embeddings of {rows}, first "
            f"{beyond[0]!r}={vocabulary[beyond[0]]}"
        )
    return dict(vocabulary)


def _added_tokens(checkpoint: Checkpoint) -> Sequence[Mapping[str, Any]]:
    tokenizer = read_tokenizer(checkpoint.folder)
    assert tokenizer is not None, "its vocabulary was read"
    return sorted(tokenizer.added, key=lambda entry: int(entry["id"]))
