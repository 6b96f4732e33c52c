"""Which rows go through the model together, as a digest: equal digests, the same batches.

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

from evomerge.evaluate.generation.decode import Arranged, Prompt
from evomerge.evaluate.likelihood.likelihood import Batch, Pair

DIGITS = 16


def composition(
    items: Sequence[tuple[str, int]],
    pairs: Sequence[Pair],
    batches: Iterable[Batch],
    prompts: Sequence[Prompt],
    arranged: Iterable[Arranged],
    told: Sequence[Any],
) -> str:
    """Digest of the batches that a set of items is scored in.

    It covers every row's tokens, places and mask, the order of rows and batches, and which item
    each predicted token belongs to. Rows that finished generating leave their batch sooner or
    later, as the weights have it; how the batch began is what counts here.

    Args:
        items: The items, in the order in which they are asked for.
        pairs: What likelihoods are wanted of.
        batches: The batches of these pairs.
        prompts: What is to be continued.
        arranged: The batches of these prompts.
        told: What else decides how rows are put together, such as another program's name.

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

    add(list(items), list(told))
    for batch in batches:
        add("batch", batch.prefix, batch.inputs, batch.depths, batch.last, batch.rows)
        add(*(batch.stems or ()))
        add(batch.columns, batch.targets, batch.absent, batch.starts.tolist())
        add([pairs[number].owner for number in batch.pairs])
    for prefix, numbers in arranged:
        some = [prompts[number] for number in numbers]
        add("prompts", len(prefix), [[p.owner, p.tokens, p.stops, p.max_tokens] for p in some])
    return digest.hexdigest()[:DIGITS]
