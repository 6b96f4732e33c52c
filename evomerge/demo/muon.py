"""Trains with Muon (Jordan 2024, https://kellerjordan.github.io/posts/muon).

torch has had a Muon of its own since 2.9. This one also runs on older versions, and takes all
matrices of one shape in one batched product, which is faster where matrices are as small as here.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

_QUINTIC = (3.4445, -4.7750, 2.0315)  # Jordan 2024: steepest at zero that still converges near 1
_ITERATIONS = 5


def orthogonal(matrices: Tensor) -> Tensor:
    """Approximate the nearest semi-orthogonal matrices: singular values from 0.7 to 1.2.

    Args:
        matrices: (n, rows, columns), float32.
    """
    a, b, c = _QUINTIC
    tall = matrices.shape[-2] > matrices.shape[-1]
    x: Tensor = matrices.mT if tall else matrices  # (n, short, long)
    x = x / torch.linalg.matrix_norm(x, keepdim=True).clamp_min(1e-7)
    for _ in range(_ITERATIONS):
        gram = x @ x.mT  # (n, short, short)
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.mT if tall else x


class Muon(torch.optim.Optimizer):
    """Muon with Nesterov momentum and decoupled weight decay, over matrices only."""

    def __init__(
        self,
        parameters: Iterable[torch.nn.Parameter],
        lr: float,
        momentum: float = 0.95,
        weight_decay: float = 0.0,
    ) -> None:
        by_shape: dict[torch.Size, list[torch.nn.Parameter]] = {}
        for parameter in parameters:
            by_shape.setdefault(parameter.shape, []).append(parameter)
        defaults = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay}
        super().__init__([{"params": group} for group in by_shape.values()], defaults)

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Move every matrix by `lr` along its orthogonalised momentum."""
        assert closure is None, "the caller computes the gradients"
        for group in self.param_groups:
            parameters, lr, momentum = group["params"], group["lr"], group["momentum"]
            gradient = torch.stack([parameter.grad for parameter in parameters])
            state = self.state[parameters[0]]
            if not state:
                state["velocity"] = torch.zeros_like(gradient)
            velocity = state["velocity"].lerp_(gradient, 1 - momentum)
            direction = orthogonal(gradient.lerp(velocity, momentum))
            rows, columns = gradient.shape[-2:]
            rate = lr * max(1.0, rows / columns) ** 0.5
            torch._foreach_mul_(parameters, 1 - lr * group["weight_decay"])
            torch._foreach_add_(parameters, list(direction.unbind()), alpha=-rate)
