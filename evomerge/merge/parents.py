"""The parents of a merge, opened once and kept: memory-mapped on the CPU, resident on a device."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from evomerge.checkpoint import Checkpoint
from evomerge.errors import UserError
from evomerge.merge.plan import Ref


class Parents:
    """Open checkpoints by the names that recipes give them.

    On the CPU tensors stay memory-mapped, so that processes of one machine share one copy. On
    another device each is copied there when first needed, and kept.
    """

    def __init__(self, models: Iterable[str], device: str = "cpu"):
        self.checkpoints = {model: Checkpoint.open(model) for model in models}
        self.device = torch.device(device)
        self._kept: dict[Ref, Tensor] = {}

    def tensor(self, ref: Ref) -> Tensor:
        """One parent's tensor, in its stored dtype; never to be written to."""
        if ref not in self._kept:
            stored = self.checkpoints[ref.model].tensor(ref.name)
            self._kept[ref] = stored.to(self.device)
        return self._kept[ref]

    def check_finite(self) -> None:
        """Refuse parents that hold NaN or infinity, naming the tensor.

        Raises:
            UserError: A tensor holds a value that is not finite.
        """
        for model, checkpoint in self.checkpoints.items():
            for name in checkpoint.tensors:
                tensor = self.tensor(Ref(model, name))
                if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
                    bad = int((~torch.isfinite(tensor)).sum())
                    raise UserError(
                        f"{checkpoint.folder}: tensor {name} holds {bad} values that are NaN or "
                        "infinite; a merge would spread them"
                    )
