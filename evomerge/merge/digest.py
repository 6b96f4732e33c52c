"""Digests a merged model's weights, the same in memory and on disk."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import torch
from torch import Tensor


def digest(named: Iterable[tuple[str, Tensor]]) -> str:
    """Return SHA-256 over names, dtypes, shapes and bytes: equal exactly when the weights are."""
    return combined_digest(f"{name} {tensor_digest(tensor)}" for name, tensor in named)


def tensor_digest(tensor: Tensor) -> str:
    """Describe one tensor by its dtype, its shape and the SHA-256 of its bytes."""
    stored = tensor.detach().cpu().contiguous()
    data = stored.flatten().view(torch.uint8).numpy()
    return f"{stored.dtype} {list(stored.shape)} {hashlib.sha256(data.data).hexdigest()}"


def combined_digest(parts: Iterable[str]) -> str:
    """Digest lines, each a name and its `tensor_digest`, in any order."""
    return hashlib.sha256("\n".join(sorted(parts)).encode()).hexdigest()
