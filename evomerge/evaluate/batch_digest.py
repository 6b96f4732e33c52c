"""Digests the batches that a set of items is scored in: equal digests, the same batches.

Batched arithmetic rounds by the shape of its batch, so scores compare exactly only if they come
from the same batches. The digest is made once for a set of items, and written down with every
outcome that these batches gave.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from typing import Any

import torch

from evomerge.evaluate.generation.decode import PromptBatch
from evomerge.evaluate.likelihood.batches import Batch
from evomerge.evaluate.outcomes import Item
from evomerge.evaluate.token_requests import Pair, Prompt

DIGITS = 16


def composition(
    items: Sequence[Item],
    pairs: Sequence[Pair],
    batches: Iterable[Batch],
    prompts: Sequence[Prompt],
    prompt_batches: Iterable[PromptBatch],
    others: Sequence[Any],
) -> str:
    """Digest the batches that a set of items is scored in.

    The digest covers every row's tokens, positions and mask, the order of rows and batches, and the
    item of each predicted token. Rows that finished generating leave their batch at a time that
    depends on the weights, so only how a batch begins is covered.

    Args:
        items: The items, in the order in which they are asked for.
        pairs: The pairs whose likelihoods are wanted.
        batches: The batches of these pairs.
        prompts: The prompts to be continued.
        prompt_batches: The batches of these prompts.
        others: Anything else that decides the batches, such as the name of an engine.

    Returns:
        16 hex digits.
    """
    digest = hashlib.sha256()

    def add(*values: Any) -> None:
        for value in values:
            if isinstance(value, torch.Tensor):
                digest.update(repr(tuple(value.shape)).encode())
                digest.update(value.cpu().contiguous().numpy().tobytes())
            else:
                digest.update(json.dumps(value).encode())
            digest.update(b"\n")

    add(list(items), list(others))
    for batch in batches:
        add("batch", batch.prefix, batch.inputs, batch.depths, batch.last, batch.rows)
        if batch.contexts is not None:
            contexts = batch.contexts
            add(contexts.tokens, contexts.seen, contexts.context_of)
        add(batch.columns, batch.targets, batch.absent, batch.starts.tolist())
        add([pairs[number].owner for number in batch.pairs])
    for prefix, numbers in prompt_batches:
        rows = [prompts[number] for number in numbers]
        add("prompts", len(prefix), [[p.owner, p.tokens, p.stops, p.max_tokens] for p in rows])
    return digest.hexdigest()[:DIGITS]
