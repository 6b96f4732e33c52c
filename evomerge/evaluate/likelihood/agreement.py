"""Decides whether two ways of computing the same logits agree but for rounding.

Differences are in standard deviations of the logits at a position: the root mean square over the
vocabulary, then the mean over positions. The largest single difference says nothing: among millions
of logits in bfloat16 one is always far off. A mask that leaks or a wrong position moves the mean by
.1 to .8 (four small models, and SmolLM2-135M: .28 to .64), MPT's biases by column by .02; rounding
by .05 on SmolLM2 in bfloat16, .006 in float16, less than .006 on small models.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from evomerge.evaluate.streamed.streamed import together

# Differences up to these pass in any model; where rounding was measured to do more, twice as much.
FLOOR = {torch.float32: 3e-4, torch.float64: 3e-4, torch.float16: 0.002, torch.bfloat16: 0.01}
TIMES_ROUNDING = 2.0
LONGER = 64  # tokens of the rows in which rounding is measured once more
# Beyond this nothing passes: rounding could then hide a mistake.
CEILING = 0.15


@dataclass(frozen=True)
class Agreement:
    """A measured difference of logits, and the largest that passes for rounding."""

    difference: float
    limit: float

    def __bool__(self) -> bool:
        return self.difference <= self.limit  # False where a logit is NaN

    def __str__(self) -> str:
        return f"{self.difference:.3f} of their spread, where up to {self.limit:.3f} is rounding"


def agreement(
    model: Any,
    logits: torch.Tensor,
    expected: torch.Tensor,
    plain: torch.Tensor,
    longest: int,
) -> Agreement:
    """Compare logits with the expected ones, (…, vocabulary), allowing for the model's rounding.

    Args:
        model: The model that computed both.
        logits: Logits computed in another way than plainly.
        expected: The same logits from plain rows.
        plain: Tokens of plain rows to measure the rounding on, (rows, length).
        longest: The longest row that the model takes.
    """
    limit = FLOOR.get(model.dtype, 0.0)
    if model.dtype in (torch.float16, torch.bfloat16):
        limit = min(CEILING, max(limit, TIMES_ROUNDING * rounding(model, plain, longest)))
    return Agreement(difference(logits, expected), limit)


def difference(logits: torch.Tensor, expected: torch.Tensor) -> float:
    """Return the mean over positions of the root mean square difference, relative to the spread."""
    logits, expected = logits.float(), expected.float()
    if not bool(torch.isfinite(expected).all()):
        return float("nan")
    apart = (logits - expected) / expected.std(dim=-1, keepdim=True)
    return float(apart.square().mean(dim=-1).sqrt().mean())


def rounding(model: Any, plain: torch.Tensor, longest: int) -> float:
    """Return how far logits move where nothing changes but how they are computed.

    The same rows go through the model together, one at a time, and with other tokens behind them:
    attention and products over more tokens are summed in another order.
    """
    length = plain.shape[1]
    repeated = plain.repeat(1, 1 + LONGER // length)[:, : min(LONGER, longest)]
    rows = [plain, repeated, *(row.unsqueeze(0) for row in plain)]

    def logits(row: torch.Tensor) -> torch.Tensor:
        return model(input_ids=row, use_cache=False).logits  # type: ignore[no-any-return]

    all_rows, longer, *apart = together(model, [partial(logits, row) for row in rows])
    return max(difference(torch.cat(apart), all_rows), difference(longer[:, :length], all_rows))
