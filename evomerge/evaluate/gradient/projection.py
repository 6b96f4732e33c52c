"""Measures a loss's gradient along low-rank changes of weights, without the weights' own gradient.

Of a linear layer's weight the gradient is G = δᵀ x, with a row of x and of δ = dL/dy for each
token. Along a change L R of rank r only < G, L R > is wanted, which is

    < G, L R > = Σ_tokens (δ L) · (x Rᵀ)

and takes r (in + out) products for each token where G takes in * out. No weight needs a gradient,
so memory for it, the third of a pass that computes it, and the activations it needs are saved.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D


class Direction(NamedTuple):
    """A low-rank change of one layer's weight, as the layer stores it.

    Attributes:
        key: Names it: the tensor, and the model that it is a change of.
        layer: A linear layer, or one that stores its weight as (in, out).
        left: Float32, (rows, rank).
        right: Float32, (rank, columns).
    """

    key: tuple[str, str]
    layer: nn.Module
    left: Tensor
    right: Tensor


class Projections:
    """The gradient along each direction, added up over backward passes.

    Attributes:
        values: By key.
    """

    def __init__(self, directions: Sequence[Direction]) -> None:
        self._directions = directions
        self.values: dict[tuple[str, str], float] = {}
        self.reset()

    def reset(self) -> None:
        """Forget what was added up."""
        self.values = {direction.key: 0.0 for direction in self._directions}


def layers_by_weight(model: nn.Module) -> dict[int, nn.Module]:
    """Return the layers that a direction may change, by the address of their weight.

    Weights that several modules share are left out.
    """
    parameters = model.named_parameters(remove_duplicate=False)
    uses = Counter(parameter.data_ptr() for _, parameter in parameters)
    layers = [module for module in model.modules() if type(module) in (nn.Linear, Conv1D)]
    by_weight = {int(layer.weight.data_ptr()): layer for layer in layers}  # type: ignore[operator]
    return {address: layer for address, layer in by_weight.items() if uses[address] == 1}


@contextmanager
def projected_gradients(model: Any, directions: Sequence[Direction]) -> Iterator[Projections]:
    """Have backward passes add to the gradient along each direction; hooks go at the end.

    Args:
        model: The live model, which has input embeddings.
        directions: Of its layers.
    """
    projections = Projections(directions)
    by_layer: dict[nn.Module, list[Direction]] = {}
    for direction in directions:
        by_layer.setdefault(direction.layer, []).append(direction)
    # Some tensor has to need a gradient, as no weight does.
    embeddings = model.get_input_embeddings()
    hooks = [embeddings.register_forward_hook(_needing_gradient)]
    hooks += [
        layer.register_forward_hook(_measuring(several, projections))
        for layer, several in by_layer.items()
    ]
    try:
        yield projections
    finally:
        for hook in hooks:
            hook.remove()


def _needing_gradient(_: nn.Module, __: Any, output: Tensor) -> Tensor:
    return output.requires_grad_(True) if torch.is_grad_enabled() else output


def _measuring(directions: Sequence[Direction], projections: Projections) -> Any:
    def after(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        if not output.requires_grad:
            return
        turned = isinstance(layer, Conv1D)
        x = inputs[0].detach().float()
        # (tokens, rank): of each direction what its first factor makes of the inputs
        reduced = [x @ (one.left if turned else one.right.T) for one in directions]

        def back(gradient: Tensor) -> None:
            delta = gradient.float()
            for one, of_inputs in zip(directions, reduced, strict=True):
                of_outputs = delta @ (one.right.T if turned else one.left)
                products = of_inputs * of_outputs
                projections.values[one.key] += float(products.sum(dtype=torch.float64))

        output.register_hook(back)  # type: ignore[no-untyped-call]

    return after
