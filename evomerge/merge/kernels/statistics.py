"""Computes once what merging needs to know of whole tensors: rankings, L1 norms, cosines.

They depend on the parents alone, not on a candidate's coefficients. Rankings of tensors above
65,536 elements are also kept on disk, in ``~/.cache/evomerge`` or where the environment variable
``EVOMERGE_CACHE`` says, under a digest of the tensors' bytes; a file that is damaged is made anew.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, MutableMapping
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from evomerge.merge.kernels.delta import Delta
from evomerge.merge.kernels.ranking import EXACT, Ranking, rank
from evomerge.merge.kernels.ranking_file import ranking_in

_FORMAT = "2"  # changes whenever files of an older version must not be read


class Statistics:
    """Statistics of the tensors of one process, by any key that identifies its tensors.

    Args:
        folder: Where rankings are kept on disk; ``None`` is `cache_folder`.
        on_disk: Whether they are kept there at all.
    """

    def __init__(self, folder: Path | None = None, *, on_disk: bool = True):
        self._on_disk = on_disk
        self._folder = (cache_folder() if folder is None else folder) / "rankings"
        self._rankings: dict[object, Ranking] = {}
        self._scalars: dict[object, Tensor] = {}
        self._digests: MutableMapping[Tensor, str] = WeakTensorKeyDictionary()

    def ranking(self, key: object, delta_of: Callable[[], Delta]) -> Ranking:
        """Return the ranking of a delta's elements by magnitude; a new one is computed."""
        ranking = self._rankings.get(key)
        if ranking is None:
            delta = delta_of()
            is_large = self._on_disk and delta.count > EXACT
            ranking = self._kept_on_disk(delta) if is_large else rank(delta)
            self._rankings[key] = ranking
        return ranking

    def scalar(self, key: object, compute: Callable[[], Tensor]) -> Tensor:
        """Return a number that `compute` gives, shape ()."""
        if key not in self._scalars:
            self._scalars[key] = compute()
        return self._scalars[key]

    def _kept_on_disk(self, delta: Delta) -> Ranking:
        name = self._digest(delta)
        return ranking_in(self._folder / f"{name}.safetensors", name, delta)

    def _digest(self, delta: Delta) -> str:
        parts = [_FORMAT, str(delta.working)]
        for tensor in (delta.base, delta.model):
            if tensor is None:
                parts.append("none")
                continue
            if tensor not in self._digests:
                data = tensor.cpu().view(torch.uint8).numpy()
                self._digests[tensor] = hashlib.sha256(data.data).hexdigest()
            parts.append(f"{tensor.dtype} {self._digests[tensor]}")
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def cache_folder() -> Path:
    """Return the folder of this user's caches: ``EVOMERGE_CACHE``, else one in the user's own."""
    named = os.environ.get("EVOMERGE_CACHE")
    if named:
        return Path(named).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "evomerge"
