"""Aligns parents of different vocabularies: rows of embeddings and heads follow their tokens.

As mergekit 0.1.5 does it. A parent that lacks a token takes the row of the base, if that has the
token; else of the only parent that has it; else the average of those that have it. A recipe's
`tokenizer.tokens` may name another row. Rows without a token are dropped, and rows that only fill
up to a multiple are the mean of a parent's others.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from evomerge import methods
from evomerge.checkpoint.architecture import (
    has_row_per_token,
    locate,
    vocabulary_size,
    with_vocabulary_size,
)
from evomerge.checkpoint.checkpoint import Checkpoint
from evomerge.checkpoint.dtypes import NAMES
from evomerge.checkpoint.files.header import TensorInfo
from evomerge.checkpoint.store import Factors
from evomerge.core.errors import UserError
from evomerge.merge.vocabulary.tokenizer import MergedTokenizer, merged_tokenizer, vocabulary_of
from evomerge.recipe.recipe import Recipe
from evomerge.recipe.tokenizer import TokenRow

_END_IDS = ("bos_token_id", "eos_token_id", "pad_token_id")


@dataclass(frozen=True)
class _Origin:
    """Rows that a model lacks, or gives up: their new ids, and the average that takes their place.

    `rows` holds (model, row) pairs to be averaged; none for a row of zeros.
    """

    number: int
    rows: tuple[tuple[str, int], ...]
    force: bool


def aligned(recipe: Recipe, checkpoints: Mapping[str, Checkpoint]) -> dict[str, Checkpoint]:
    """Return the same models, all with the vocabulary that the recipe asks for.

    Args:
        recipe: The recipe; without a `tokenizer_source` nothing changes.
        checkpoints: Every model that it names, opened.

    Raises:
        UserError: A token has no row anywhere, or a row that is named does not exist.
    """
    tokenizer = merged_tokenizer(recipe, checkpoints)
    if tokenizer is None:
        return dict(checkpoints)
    vocabularies = {name: vocabulary_of(checkpoint) for name, checkpoint in checkpoints.items()}
    for checkpoint in checkpoints.values():
        if not any(_has_rows(checkpoint, name) for name in checkpoint.tensors):
            raise UserError(
                f"{checkpoint.folder}: no embedding has the vocab_size of its config.json, "
                f"{vocabulary_size(checkpoint.config)}; so tokens cannot be matched with rows"
            )
    rule = recipe.vocabulary
    assert rule is not None
    count = max(tokenizer.tokens.values()) + 1
    multiple = rule.pad_to_multiple_of or 1
    size = -(-count // multiple) * multiple
    shared = {vocabulary_size(checkpoint.config) for checkpoint in checkpoints.values()}
    if rule.pad_to_multiple_of is None and len(shared) == 1:  # rows to spare, alike in all of them
        size = max(size, shared.pop() or 0)
    identical = all(
        vocabulary == tokenizer.tokens and vocabulary_size(checkpoints[name].config) == size
        for name, vocabulary in vocabularies.items()
    )
    if identical and not rule.tokens:
        return dict(checkpoints)
    stores = {
        name: _Aligned(name, checkpoint, checkpoints, recipe, tokenizer, vocabularies, size)
        for name, checkpoint in checkpoints.items()
    }
    return {name: store.checkpoint() for name, store in stores.items()}


class _Aligned:
    """The tensors of a parent, their rows in the order of the result's tokens."""

    def __init__(
        self,
        name: str,
        parent: Checkpoint,
        checkpoints: Mapping[str, Checkpoint],
        recipe: Recipe,
        tokenizer: MergedTokenizer,
        vocabularies: Mapping[str, Mapping[str, int]],
        size: int,
    ):
        self.name, self.parent, self.checkpoints = name, parent, checkpoints
        self.recipe, self.tokenizer = recipe, tokenizer
        self.vocabularies, self.size = vocabularies, size
        self._origins: dict[tuple[str, ...], list[_Origin]] = {}

    def checkpoint(self) -> Checkpoint:
        """Return the parent as every merge sees it, with the new shapes beforehand."""
        tensors = {
            name: info._replace(dtype=self._dtype(name), shape=(self.size, *info.shape[1:]))
            if _has_rows(self.parent, name)
            else info
            for name, info in self.parent.tensors.items()
        }
        config = with_vocabulary_size(self.parent.config, self.size)
        source = self.tokenizer.donor
        if source.folder != self.parent.folder:  # these are ids of other tokens now
            config |= {key: source.config[key] for key in _END_IDS if key in source.config}
        return Checkpoint(self.parent.folder, config, tensors, self)

    @property
    def fingerprint(self) -> str:
        alignment = [
            self.recipe.to_dict(),
            sorted(c.fingerprint for c in self.checkpoints.values()),
        ]
        text = f"{self.parent.fingerprint} {json.dumps(alignment, sort_keys=True)}"
        return hashlib.sha256(text.encode()).hexdigest()

    @property
    def files(self) -> list[Path]:
        return [file for checkpoint in self.checkpoints.values() for file in checkpoint.store.files]

    def factors(self, name: str, adapters: int) -> list[Factors] | None:
        return None if _has_rows(self.parent, name) else self.parent.factors(name, adapters)

    def computes(self, name: str) -> bool:
        # rows that follow their tokens stay: they are few, and take a while
        return not _has_rows(self.parent, name) and self.parent.computes(name)

    def tensor(self, name: str) -> Tensor:
        rows = self.parent.tensor(name)
        if not _has_rows(self.parent, name):
            return rows
        vocabulary = self.vocabularies[self.name]
        spare = rows[max(self.tokenizer.tokens.values()) + 1 :]
        keeps = vocabulary == self.tokenizer.tokens and len(rows) == self.size
        dtype = getattr(torch, NAMES[self._dtype(name)])
        result = torch.zeros(self.size, *rows.shape[1:], dtype=dtype)
        shared = [
            (new, vocabulary[token])
            for token, new in self.tokenizer.tokens.items()
            if token in vocabulary
        ]
        if shared:
            new, old = (torch.tensor(ids) for ids in zip(*shared, strict=True))
            result[new] = rows[old].to(dtype)
        mine = set(dict(shared))
        for origin in self._origins_of(name):
            if origin.number in mine and not origin.force:
                continue
            average = torch.zeros(rows.shape[1:], dtype=dtype)
            for model, index in origin.rows:
                average = average + self._foreign(model, name)[index].to(dtype)
            result[origin.number] = average / max(len(origin.rows), 1)
        count = max(self.tokenizer.tokens.values()) + 1
        if self.size > count:
            result[count:] = spare.to(dtype) if keeps else result[:count].mean(dim=0)
        return result

    def _dtype(self, name: str) -> str:
        """Return float32 where anything is averaged, or parents are stored in several dtypes."""
        kinds = {self._info(m, name).dtype for m in self._takers(name)}
        kinds.add(self.parent.tensors[name].dtype)
        averages = any(len(origin.rows) > 1 for origin in self._origins_of(name))
        padded = self.size > max(self.tokenizer.tokens.values()) + 1
        return "F32" if averages or padded or len(kinds) > 1 else kinds.pop()

    def _origins_of(self, name: str) -> list[_Origin]:
        """Return the row that stands for tokens that some parents lack, the same for each."""
        takers = self._takers(name)
        if takers not in self._origins:
            rule = self.recipe.vocabulary
            assert rule is not None
            origins = []
            for token, number in self.tokenizer.tokens.items():
                owners = [model for model in takers if token in self.vocabularies[model]]
                wanted = rule.tokens.get(token)
                if wanted is None and len(owners) == len(takers):
                    continue
                rows = self._rows_for(token, wanted, owners, takers)
                origins.append(_Origin(number, rows, wanted is not None and wanted.force))
            self._origins[takers] = origins
        return self._origins[takers]

    def _rows_for(
        self, token: str, wanted: TokenRow | None, owners: Sequence[str], takers: Sequence[str]
    ) -> tuple[tuple[str, int], ...]:
        if wanted is None:
            if not owners:
                raise UserError(
                    f"token {token!r}: no merged model has a row for it; give it a source under "
                    "tokenizer.tokens, such as {kind: zero}"
                )
            if self.recipe.donor in owners and len(owners) > 1:
                owners = [self.recipe.donor]
            return tuple((model, self.vocabularies[model][token]) for model in owners)
        if wanted.model is None:
            return ()
        if wanted.model not in takers:
            raise UserError(f"tokenizer.tokens[{token!r}]: {wanted.model} is not merged here")
        number, name = wanted.token_id, token if wanted.token is None else wanted.token
        if number is None and name not in self.vocabularies[wanted.model]:
            raise UserError(f"tokenizer.tokens[{token!r}]: {wanted.model} has no token {name!r}")
        number = self.vocabularies[wanted.model][name] if number is None else number
        rows = vocabulary_size(self.checkpoints[wanted.model].config)
        if rows is not None and number >= rows:
            raise UserError(
                f"tokenizer.tokens[{token!r}]: {wanted.model} has {rows} rows, and none of number "
                f"{number}"
            )
        return ((wanted.model, number),)

    def _takers(self, name: str) -> tuple[str, ...]:
        """Return the models that a tensor is merged of."""
        recipe = self.recipe
        if recipe.slices:
            at = -1 if locate(name).component == "head" else 0
            listed = [source.model for source in recipe.slices[at].sources]
            base = recipe.slices[at].base_model or recipe.base_model
        else:
            listed, base = [entry.model for entry in recipe.models], recipe.base_model
        block = recipe.block_of(None, locate(name).component)
        method = block.merge_method if block else recipe.merge_method
        takes_base = methods.get(method).takes_base and base is not None
        return tuple(dict.fromkeys([*listed, *([base] if takes_base and base else [])]))

    def _info(self, model: str, name: str) -> TensorInfo:
        tensors = self.checkpoints[model].tensors
        actual_name = self.checkpoints[model].stored_name(name)
        if actual_name is None:
            raise UserError(f"{model}: it has no tensor {name}, which the recipe needs")
        return tensors[actual_name]

    def _foreign(self, model: str, name: str) -> Tensor:
        checkpoint = self.checkpoints[model]
        actual_name = checkpoint.stored_name(name)
        assert actual_name is not None, f"{model} has no {name}"
        return checkpoint.tensor(actual_name)


def _has_rows(checkpoint: Checkpoint, name: str) -> bool:
    info = checkpoint.tensors[name]
    return has_row_per_token(name, info.shape, checkpoint.config)
