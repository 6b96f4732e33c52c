"""Whether models can be merged: the same tensors, shapes and token ids."""

from __future__ import annotations

from evomerge.architecture import tied_partner
from evomerge.checkpoint.checkpoint import Checkpoint
from evomerge.errors import UserError


def check_compatible(base: Checkpoint, other: Checkpoint) -> None:
    """Refuse a pair whose tensors or vocabularies differ, naming the first of them.

    Raises:
        UserError: A tensor is missing or of another shape, or token ids differ.
    """
    wrong = []
    for name, info in base.tensors.items():
        held = other.tensors.get(name) or other.tensors.get(tied_partner(name, other.tensors) or "")
        if held is None:
            wrong.append(f"{name} is missing")
        elif held.shape != info.shape:
            wrong.append(f"{name} is {list(held.shape)}, expected {list(info.shape)}")
    for name in other.tensors:
        if name not in base.tensors and tied_partner(name, base.tensors) is None:
            wrong.append(f"{name} is not in the base")
    if wrong:
        more = f" and {len(wrong) - 5} more" if len(wrong) > 5 else ""
        raise UserError(
            f"{other.folder}: does not match {base.folder}: {'; '.join(wrong[:5])}{more}"
        )
    ours, theirs = base.vocabulary, other.vocabulary
    if ours is not None and theirs is not None and ours != theirs:
        differing = sorted(set(ours.items()) ^ set(theirs.items()))[:5]
        listed = ", ".join(f"{token!r}={number}" for token, number in differing)
        raise UserError(
            f"{other.folder}: its tokenizer differs from that of {base.folder}, first at {listed}; "
            "merging would mix the rows of different tokens"
        )
