"""Runs several sums of the same LoRA adapters through one model, side by side in one pass.

Candidates that weigh up the same adapters differ in a few numbers a layer. With the adapters'
factors side by side, A = [A_1; …; A_n] and B = [B_1 … B_n], and a candidate's weights repeated for
every rank of their adapter, s_c, a linear layer computes for the rows x_c of candidate c

    y_c = x_c Wᵀ + ((x_c Aᵀ) * s_c) Bᵀ

so that no weight is written, and weights and factors are read once for all candidates, as where
many adapters are served together (Chen 2023, https://arxiv.org/abs/2310.18547; Sheng 2023,
https://arxiv.org/abs/2311.03285). It costs 2 r (in + out) operations a token more, r being all
ranks together, and saves the 2 r in out of a candidate's products.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D


class LayerSums(NamedTuple):
    """Holds what candidates add to one layer's weight.

    Attributes:
        layer: A linear layer, or one that stores its weight as (in, out).
        left: The adapters' left factors side by side, (rows of the weight, ranks).
        right: Their right factors, (ranks, columns).
        scales: What each candidate multiplies a rank by, (candidates, ranks).
    """

    layer: nn.Module
    left: Tensor
    right: Tensor
    scales: Tensor


class OtherRowsError(RuntimeError):
    """A layer was given other rows than the candidates', as experts are that tokens choose."""


@contextmanager
def side_by_side(sums: Sequence[LayerSums]) -> Iterator[None]:
    """Have a model compute as many candidates as there are rows of `scales`; hooks go at the end.

    Inputs are the first candidate's rows, then the second's, and so on (`batches.repeated`).

    Raises:
        OtherRowsError: Within, where a layer's input is not (rows, length, width) of all of them.
    """
    hooks = [one.layer.register_forward_hook(_adding(one)) for one in sums]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _adding(sums: LayerSums) -> Any:
    turned = isinstance(sums.layer, Conv1D)
    weight = sums.layer.get_parameter("weight")
    down = (sums.left if turned else sums.right.T).to(weight)  # (in, ranks)
    up = (sums.right if turned else sums.left.T).to(weight)  # (ranks, out)
    scales = sums.scales.to(weight).unsqueeze(1)  # (candidates, 1, ranks)
    candidates = len(scales)

    def after(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        x = inputs[0]
        if x.dim() != 3 or len(x) % candidates:
            raise OtherRowsError(f"expected rows of {candidates} candidates, but got {x.shape}")
        reduced = (x.reshape(-1, x.shape[-1]) @ down).view(candidates, -1, down.shape[1])
        scaled = (reduced * scales).view(-1, down.shape[1])
        added = torch.addmm(output.reshape(-1, output.shape[-1]), scaled, up)
        return added.view(output.shape)

    return after
