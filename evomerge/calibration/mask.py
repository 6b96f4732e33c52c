"""Learns a mask of a merge's size, and each model's share in each tensor, along rows of data.

    θ = base + m / mean(m) Σ_i s_i (model_i - base),    m = sigmoid(x / T)

for each tensor, with x of its shape, the same for all models, and a number s_i for each model. Adam
follows the gradient of the rows' likelihood by x and s, which comes from that by θ:

    dL/ds_i = < dL/dθ m / mean(m), model_i - base >

Tang 2023, https://arxiv.org/abs/2312.06173 (Concrete), whose T, 1/2, and x = 0 at the start are
kept; Yi 2024, https://arxiv.org/abs/2405.09055 (SOMF) learns such a mask, too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from evomerge.calibration.cost import MASK_ROWS
from evomerge.calibration.rows import Row, batches
from evomerge.core.errors import UserError
from evomerge.evaluate.gradient.backward import weight_gradients
from evomerge.merge.live_layout import parts
from evomerge.methods.random import CounterRandom

TEMPERATURE = 0.5
SHARE = 0.5  # of each model at the start: the best of simple task arithmetic on the demo's zoos
# Adam's first steps. Of .03, .1, .3 and 1 for x, the first two did alike, and best.
MASK_RATE, SHARE_RATE = 0.03, 0.1
_TINY = 1e-12  # keeps a gradient of 0 from dividing by 0

Read = Callable[[str], Tensor]  # a model's tensor by its stored name, float32
Shares = dict[str, list[float]]  # of each tensor, a number for each model


class _Tensor:
    """One tensor's mask and shares while they are learned."""

    def __init__(self, like: Tensor, models: int) -> None:
        self.x = torch.zeros(like.shape, device=like.device)
        self.shares = torch.full((models,), SHARE, dtype=torch.float64)
        rates = [{"params": [self.x], "lr": MASK_RATE}, {"params": [self.shares], "lr": SHARE_RATE}]
        self._adam = torch.optim.Adam(rates, eps=_TINY)
        self._sums: tuple[Tensor, Tensor] | None = None
        self._counted = 0

    def added(self, deltas: Sequence[Tensor]) -> Tensor:
        """Return what is added to the base."""
        return mask_of(self.x) * self._sum(deltas)

    def _sum(self, deltas: Sequence[Tensor]) -> Tensor:
        total = torch.zeros_like(self.x)
        for delta, share in zip(deltas, self.shares.tolist(), strict=True):
            total.add_(delta, alpha=share)
        return total

    def step(self, gradient: Tensor, deltas: Sequence[Tensor]) -> None:
        """Go one step along the gradient by the tensor."""
        self.x.grad, self.shares.grad = gradients(self.x, self._sum(deltas), deltas, gradient)
        self._adam.step()
        self._adam.zero_grad()

    def count(self) -> None:
        """Take the present point into the mean."""
        if self._sums is None:
            self._sums = torch.zeros_like(self.x), torch.zeros_like(self.shares)
        self._sums[0].add_(self.x)
        self._sums[1].add_(self.shares)
        self._counted += 1

    def mean(self) -> tuple[Tensor, list[float]]:
        """Return the mask and the shares at the mean of the points that were counted."""
        assert self._sums is not None
        x, shares = (one / self._counted for one in self._sums)
        return mask_of(x), shares.tolist()


def mask_of(x: Tensor) -> Tensor:
    """Return m / mean(m), m = sigmoid(x / T); 1 everywhere where all x are equal."""
    m = torch.sigmoid(x / TEMPERATURE)
    return m / m.mean()


def gradients(
    x: Tensor, total: Tensor, deltas: Sequence[Tensor], gradient: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the derivative of a loss by a tensor's x, and by the shares; all of one float dtype.

    Args:
        x: What the mask is made of.
        total: The sum of the deltas times their shares.
        deltas: What each model adds to the base.
        gradient: The derivative by the merged tensor.
    """
    m = torch.sigmoid(x / TEMPERATURE)
    mean = m.mean()
    by_mask = gradient * total
    by_m = (by_mask - (by_mask * m).mean() / mean) / mean
    masked = (gradient * (m / mean)).double()
    by_shares = [float((masked * delta.double()).sum()) for delta in deltas]
    return by_m * m * (1 - m) / TEMPERATURE, torch.tensor(by_shares, dtype=torch.float64)


def learn(
    model: Any,
    names: Sequence[str],
    base: Read,
    models: Sequence[Read],
    rows: Sequence[Row],
    steps: int,
    seed: int,
) -> tuple[Mapping[str, Tensor], Shares]:
    """Learn masks and shares: the mean of the last half of Adam's points.

    Args:
        model: A live model of the base's architecture, float32; its weights are written over.
        names: The stored tensors' names.
        base: Reads the base.
        models: Each reads a model.
        rows: Of all models together.
        steps: How many; each looks at `MASK_ROWS` rows, others each time.
        seed: Of the draw of rows.

    Returns:
        Of each floating-point tensor that the model has a place for m / mean(m), float32, of its
        shape, and the shares.

    Raises:
        UserError: A loss is not finite.
    """
    live = {n: part for n, part in parts(model, names).items() if part.is_floating_point()}
    learned = {name: _Tensor(part, len(models)) for name, part in live.items()}

    def deltas(name: str) -> tuple[Tensor, list[Tensor]]:
        device = live[name].device
        start = base(name).to(device)
        return start, [one(name).to(device) - start for one in models]

    for step in range(steps):
        for name, part in live.items():
            if step >= steps // 2:
                learned[name].count()
            start, changes = deltas(name)
            part.detach().copy_(start + learned[name].added(changes))
        with torch.enable_grad(), weight_gradients(model):
            _backward(model, drawn(rows, seed, step))
            for name, part in parts(model, names).items():
                if name in learned and part.grad is not None:
                    learned[name].step(part.grad.detach().float(), deltas(name)[1])
    ends = {name: one.mean() for name, one in learned.items()}
    masks = {name: mask for name, (mask, _) in ends.items()}
    return masks, {name: shares for name, (_, shares) in ends.items()}


def drawn(rows: Sequence[Row], seed: int, step: int) -> list[Row]:
    """Return the rows of a step: `MASK_ROWS` of them, or all."""
    places = CounterRandom(seed, f"rows of step {step}").uniform(0, (len(rows),)).argsort()
    return [rows[place] for place in places[:MASK_ROWS].tolist()]


def _backward(model: Any, rows: Sequence[Row]) -> None:
    """Add up the gradient of the mean over rows of a row's mean negative log-likelihood."""
    for batch in batches(rows):
        tokens = torch.tensor([row.tokens for row in batch], device=model.device)
        first = torch.tensor([row.first for row in batch], device=model.device)
        logits = model(input_ids=tokens[:, :-1], use_cache=False).logits
        losses = torch.nn.functional.cross_entropy(
            logits.float().flatten(0, 1), tokens[:, 1:].flatten(), reduction="none"
        ).view(len(batch), -1)
        counts = torch.arange(1, tokens.shape[1], device=model.device) >= first[:, None]
        by_row = (losses * counts).sum(1) / counts.sum(1)
        if not bool(torch.isfinite(by_row).all()):
            raise UserError(
                f"row {batch[int((~torch.isfinite(by_row)).nonzero()[0])].number}: the loss of the "
                "merge on it is not finite: leave the row out, or look at the models"
            )
        (by_row.sum() / len(rows)).backward()  # type: ignore[no-untyped-call]
