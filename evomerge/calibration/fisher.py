"""Averages the squared gradient of a model's loss over its rows, one row at a time.

The square of a batch's gradient would hold products of different rows' gradients, which is not the
Fisher information and may vanish where that is large.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from evomerge.calibration.rows import Row
from evomerge.core.errors import UserError
from evomerge.evaluate.gradient.backward import weight_gradients
from evomerge.merge.live_layout import parts
from evomerge.methods.random import CounterRandom
from evomerge.recipe.rows import Labels


def squares(
    model: Any, names: Sequence[str], rows: Sequence[Row], labels: Labels, seed: int
) -> dict[str, Tensor]:
    """Return the mean over rows of the squared gradient of a row's mean negative log-likelihood.

    F = 1/N sum_x (d/dθ 1/T sum_t -log p(y_t | x, y_<t))^2

    Args:
        model: The live model, float32.
        names: The stored tensors' names.
        rows: N rows; T counts the tokens from `Row.first` on.
        labels: ``given``: y are the row's tokens. ``sampled``: each y_t is drawn from p, while the
            model goes on reading the row's own tokens.
        seed: Of that draw.

    Returns:
        A float32 tensor for each stored one that the model has a place for.

    Raises:
        UserError: A row's gradient is not finite.
    """
    sums = {
        name: torch.zeros(tuple(part.shape), device=part.device)
        for name, part in parts(model, names).items()
        if part.is_floating_point()
    }
    with torch.enable_grad(), weight_gradients(model):
        for row in rows:
            loss = _loss(model, row, labels, seed)
            loss.backward()  # type: ignore[no-untyped-call]
            for name, part in parts(model, names).items():
                if part.grad is not None and name in sums:
                    sums[name].addcmul_(part.grad.float(), part.grad.float())
            for parameter in model.parameters():
                parameter.grad = None
            if not bool(torch.isfinite(loss)):
                raise UserError(
                    f"row {row.number}: the model's loss on it is {float(loss.detach())}: leave "
                    "the row out, or look at the model"
                )
    for name, total in sums.items():
        total /= len(rows)
        if not bool(torch.isfinite(total).all()):
            raise UserError(f"{name}: the squared gradient over the rows is not finite")
    return sums


def _loss(model: Any, row: Row, labels: Labels, seed: int) -> Tensor:
    tokens = torch.tensor(row.tokens, device=model.device)
    logits = model(input_ids=tokens[None, :-1], use_cache=False).logits[0, row.first - 1 :]
    targets = tokens[row.first :]
    if labels == "sampled":
        targets = _drawn(logits.detach(), CounterRandom(seed, f"labels of row {row.number}"))
    return torch.nn.functional.cross_entropy(logits.float(), targets)


def _drawn(logits: Tensor, random: CounterRandom) -> Tensor:
    """Draw a token for each row of logits, by the inverse of the cumulative distribution."""
    cumulated = logits.double().softmax(-1).cumsum(-1)
    uniform = random.uniform(0, (len(logits),), device=logits.device).double()
    places = torch.searchsorted(cumulated, uniform[:, None], right=True)[:, 0]
    return places.clamp_(max=logits.shape[-1] - 1)
